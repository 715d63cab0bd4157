"""One kernel, driven through jupyter_client.

A cell's request, its outputs, tool calls, time limit and recovery after a lost link belong here. The package knows the
tunnel that carries the channels and the tools a cell may call. It does not start sandboxes (``session``), knows no DSPy
(``interpreter``) and runs on the I/O loop only.
"""
