"""The link's asyncio shell, the same in the host's tunnel and in the sandbox's relay.

Knows sockets and :mod:`daytona_kernel_interp.wire`, and nothing else of ours.
"""
