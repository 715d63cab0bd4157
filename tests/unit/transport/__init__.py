"""Unit tests of the transport.

covers: websocket: tests/integration/test_relay.py, tests/faults/test_faults.py
"""
