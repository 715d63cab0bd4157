"""Tests of the kernel's process: its parts, each without a kernel.

What only a whole kernel shows is tested on every Python and ipykernel that is supported:

covers: kernel: tests/integration/test_cells.py, tests/integration/test_interrupts.py
covers: error_text: tests/integration/test_model_cells.py
covers: forked: tests/integration/test_model_cells.py
covers: nested_loops: tests/integration/test_model_cells.py
covers: class_sources: tests/integration/test_model_cells.py
covers: shell: tests/integration/test_cells.py, tests/integration/test_model_cells.py
covers: shell_lines: tests/integration/test_model_cells.py
covers: kernel_app: tests/integration/test_kernels.py, tests/integration/test_lifetimes.py
covers: interactive_kernel: tests/integration/test_provisioner.py, tests/integration/test_programs_jupyter.py
"""
