"""Who broke the protocol: us or the peer.

::

    ProtocolError
    ├── LocalProtocolError    our caller used a core in a way its docstring forbids: a bug of ours
    └── RemoteProtocolError   the peer sent what the format does not allow: its session is over
        └── WindowOverrun     it sent more than it was allowed to have unacked

The shells translate these into the package's public errors.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Base class; never raised itself."""


class LocalProtocolError(ProtocolError):
    """A core was driven against its rules."""


class RemoteProtocolError(ProtocolError):
    """The peer's bytes break the format."""


class WindowOverrun(RemoteProtocolError):
    """The peer sent more than the window allows."""
