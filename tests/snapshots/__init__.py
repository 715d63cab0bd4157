"""Snapshots of what users and other processes rely on: names, command line, messages, packaging and file formats.

``test_snapshots.py`` compares; ``python -m tests.snapshots`` rewrites ``expected/``. A deliberate change edits the
snapshot in its own commit. Bytes on the wire that a golden test of ``tests/unit`` pins are not repeated here.
"""
