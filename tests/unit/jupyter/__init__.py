"""Unit tests of kernelspecs and of their sandboxes; Jupyter's own programs run in integration tests.

covers: magics: tests/integration/test_live.py
"""
