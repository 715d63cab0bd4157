"""Kernels in sandboxes for Jupyter programs.

The kernel provisioner, the kernelspecs that name it, the session behind it, and IPython's magics for sessions of this
machine. Any program on jupyter_client can start these kernels. Nothing here knows DSPy; the interpreter's own sessions
are in ``session``, views of them in ``monitor``.
"""
