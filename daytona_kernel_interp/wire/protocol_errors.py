"""Protocol errors, by the side that broke the protocol.

::

    ProtocolError
    ├── LocalProtocolError    the caller broke the rules of a core: a bug in this package
    └── RemoteProtocolError   the peer broke the format: its session is over
        └── WindowOverrun     the peer sent more unacked bytes than the window allows

The shells translate these into the package's public errors.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The base class; never raised itself."""


class LocalProtocolError(ProtocolError):
    """A core was used against its rules."""


class RemoteProtocolError(ProtocolError):
    """The peer's bytes break the format."""


class WindowOverrun(RemoteProtocolError):
    """The peer sent more than the window allows."""
