"""Unit tests: no kernel, no network. Modules at the top level without a test module here:

covers: errors: tests/unit/interpreter/test_dspy_errors.py
"""
