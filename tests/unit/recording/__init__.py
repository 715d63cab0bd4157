"""Unit tests of recording. Covered elsewhere:

covers: dspy_callback: tests/integration/test_recorded_rlm.py
covers: model: tests/unit/recording/test_notebook_reader.py
covers: recorder: tests/integration/test_recording.py
covers: recording: tests/unit/recording/test_notebook_reader.py
"""
