"""The relay: the process in the sandbox that owns the WebSocket port and the kernel processes.

It starts, watches, signals and adopts kernels, carries their channels as streams, and reads their journals for hosts
whose link could not resume. It never reads what channels carry. What happens inside a kernel process belongs to
``guest.kernel``; the protocol of the link belongs to ``wire``; the host's side is ``tunnel``.
"""
