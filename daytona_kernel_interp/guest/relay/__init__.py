"""The relay's process in the sandbox.

One WebSocket port in front of the sandbox's kernels: it starts, watches, signals and adopts kernel processes, and
carries their channels as streams. It never reads what the channels carry. What happens inside a kernel process
belongs to ``guest.kernel``; the protocol of the link belongs to ``wire``.
"""
