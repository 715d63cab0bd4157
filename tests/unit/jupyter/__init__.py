"""Unit tests of kernelspecs and of their sandboxes; Jupyter's own programs run in integration tests.

covers: magics: tests/integration/test_live.py
covers: provisioner: tests/integration/test_provisioner.py, tests/integration/test_programs.py
"""
