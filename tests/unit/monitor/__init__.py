"""Unit tests of inspections; what asks a running session is covered by integration tests.

covers: live: tests/integration/test_live.py
covers: shared_client: tests/integration/test_live.py
covers: widget: tests/integration/test_live.py
"""
