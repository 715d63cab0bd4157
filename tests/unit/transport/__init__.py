"""Unit tests of the transport, on real sockets."""
