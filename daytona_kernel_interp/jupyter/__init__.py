"""Kernels in sandboxes for Jupyter programs.

The kernel provisioner, the kernelspecs that name it, the sandbox and kernel behind it, and IPython's magics for the
sessions of this machine. Every program that uses jupyter_client can start these kernels. Nothing here imports DSPy; the
interpreter's own sessions are in ``session``, and views of them in ``monitor``.
"""
