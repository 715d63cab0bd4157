"""What both ends of the wire share: formats and sans-I/O cores.

Standard library only, and no socket, clock, thread or asyncio: whatever is here can be tested at every
byte, and is the same code in the host process and in the sandbox.

The wire has one version, checked before the first frame (see :mod:`.hello`).
"""
