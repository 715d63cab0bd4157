"""A stream carried over WebSockets, for host and sandbox.

The asyncio shell around ``wire``: carriers between a stream and its local end, local sockets, the WebSocket
connections, and process identities. It imports ``wire`` and nothing else of ours, so that tunnel and relay share it.
Reconnecting is the host's matter and belongs to ``tunnel``.
"""
