"""The protocols between host and sandbox, sans-I/O.

Frames, streams, hellos, keepalive, ZMTP's handshake, the journal and the messages of the bridge: each format is written
down where it is coded, with its version. Standard library only; no socket, clock, thread or event loop. Values as bytes
are ``codec``; moving bytes is ``transport``.
"""
