"""Unit tests of the transport, on real sockets.

covers: websocket: tests/unit/transport/test_carrier.py
"""
