"""Unit tests of the client.

The driver needs a kernel, so integration tests cover it.

covers: cell_messages: tests/integration/test_cells.py, tests/integration/test_recovery.py
covers: cell_result: tests/integration/test_run.py
covers: execution_events: tests/unit/client/test_execution.py
covers: execution_result: tests/integration/test_cells.py, tests/integration/test_kernels.py
covers: execution_state: tests/unit/client/test_execution.py
covers: kernel_driver: tests/integration/test_cells.py, tests/integration/test_attach.py
covers: outputs: tests/unit/client/test_output_collector.py, tests/unit/client/test_output_text.py
"""
