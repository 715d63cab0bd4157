"""Unit tests of the wire formats and the rules of streams.

covers: inspect_messages: tests/unit/client/test_inspect_request.py, tests/integration/test_inspect.py
covers: protocol_errors: tests/unit/wire/test_frames.py
"""
