"""Process-wide infrastructure: the event loop and the clean-up at exit.

The background event loop with its pool of daemon threads, which is the only crossing between sync and async code, and
the registry of what is open and must be closed when the process ends. It knows nothing of sandboxes, kernels or DSPy
and imports no other package of ours.
"""
