"""Python values as bytes, the same on host and sandbox.

One codec for variables, tool arguments, results and SUBMIT: tagged JSON with binary buffers, and one module for each
library whose values it carries. No pickle. Sans-I/O: no socket, clock, thread or event loop. The transport of the
encoded bytes is implemented in ``wire`` and ``transport``.
"""
