"""Unit tests of the sandboxes.

covers: base: tests/integration/test_relay.py
covers: local: tests/integration/test_relay.py, tests/integration/test_lifetimes.py
covers: remote_relay: tests/integration/test_relay_sandbox.py, tests/unit/sandboxes/test_option_checks.py
"""
