"""Unit tests of sessions.

A session needs a sandbox with a kernel, so integration tests cover it.

covers: kernel_session: tests/integration/test_cells.py, tests/integration/test_attach.py
covers: monitor_server: tests/integration/test_live.py
"""
