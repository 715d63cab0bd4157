"""Unit tests of the tunnel; what needs a relay is covered by integration tests.

covers: entropy: tests/unit/tunnel/test_dialer.py
covers: local_endpoints: tests/integration/test_kernels.py
covers: tunnel: tests/integration/test_relay.py, tests/integration/test_backpressure.py, tests/faults/test_faults.py
"""
