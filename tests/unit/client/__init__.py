"""Unit tests of the client.

Executions need a kernel, so integration tests cover them.

covers: cell_result: tests/integration/test_run.py
covers: execution: tests/integration/test_cells.py, tests/integration/test_recovery.py
covers: kernel_driver: tests/integration/test_cells.py, tests/integration/test_attach.py
covers: outputs: tests/unit/client/test_output_collector.py, tests/unit/client/test_output_text.py
"""
