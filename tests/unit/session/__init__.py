"""Unit tests of the session; what needs a sandbox is covered by integration tests.

covers: kernel_session: tests/integration/test_attach.py, tests/integration/test_lifetimes.py
covers: monitor_server: tests/integration/test_live.py
"""
