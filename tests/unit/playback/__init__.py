"""Unit tests of playback. Covered elsewhere:

covers: canonical: tests/unit/playback/test_tape.py
covers: offline_interpreter: tests/integration/test_offline.py
covers: recorded_lm: tests/integration/test_offline.py
covers: replay: tests/integration/test_replay.py
"""
