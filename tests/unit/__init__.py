"""Unit tests, one package for each package of ``daytona_kernel_interp``.

A module without a test module of its name is listed in its package's docstring with the tests that cover it.

covers: provisioner: tests/integration/test_provisioner.py
covers: errors: tests/unit/interpreter/test_dspy_errors.py
covers: __main__: tests/test_cli.py
covers: provisioner: tests/unit/jupyter/test_kernelspec.py
"""
