"""Unit tests of the tunnel.

covers: entropy: tests/unit/tunnel/test_dialer.py
covers: local_endpoints: tests/unit/session/test_session_file.py, tests/integration/test_relay.py
"""
