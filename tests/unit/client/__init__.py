"""Unit tests of the client of one kernel; what needs a kernel is covered by integration tests.

covers: cell_result: tests/integration/test_run.py
covers: execution: tests/integration/test_cells.py, tests/integration/test_endings.py
covers: kernel_driver: tests/integration/test_cells.py, tests/integration/test_recovery.py
covers: kernel_driver: tests/integration/test_interrupts.py
covers: outputs: tests/unit/client/test_output_collector.py
"""
