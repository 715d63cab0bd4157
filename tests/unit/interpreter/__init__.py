"""Unit tests of ``interpreter``: everything that needs no kernel.

The modules below work on a running session; these tests cover them:

covers: session_access: tests/integration/test_misuse.py, tests/integration/test_attach.py
covers: session_access: tests/integration/test_inspect.py
covers: session_access: tests/integration/test_endings.py
covers: transfer: tests/integration/test_exchange.py
"""
