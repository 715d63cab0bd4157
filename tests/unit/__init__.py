"""Unit tests: no kernel, no network. Modules at the top level without a test module here:

covers: provisioner: tests/integration/test_provisioner.py
covers: errors: tests/unit/interpreter/test_dspy_errors.py
"""
