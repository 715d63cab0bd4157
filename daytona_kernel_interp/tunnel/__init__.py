"""The host's end of the link to a relay.

Local sockets for jupyter_client, one resumable stream for each connection, and the dialer that keeps every stream on a
living WebSocket. The stream protocol itself is sans-I/O and in ``wire``; the asyncio shell shared with the relay is
``transport``. It knows kernels by id only.
"""
