"""Unit tests of the tunnel.

A tunnel needs a relay, so integration tests and tests of link faults cover it.

covers: entropy: tests/unit/tunnel/test_dialer.py
covers: local_endpoints: tests/unit/session/test_session_file.py, tests/integration/test_relay.py
covers: tunnel: tests/integration/test_recovery.py, tests/faults/test_faults.py
"""
