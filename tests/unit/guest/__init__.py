"""Unit tests of the guest side.

covers: entrypoint: tests/integration/test_waiting_relay.py
covers: journal_files: tests/unit/guest/kernel/test_journal_writer.py
covers: __main__: tests/integration/test_waiting_relay.py
"""
