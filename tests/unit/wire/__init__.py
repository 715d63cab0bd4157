"""Unit tests of the wire protocols.

covers: inspect_messages: tests/unit/guest/kernel/test_inspect_handler.py, tests/unit/client/test_inspect_request.py
covers: protocol_errors: tests/unit/wire/test_frames.py, tests/unit/wire/test_stream.py
"""
