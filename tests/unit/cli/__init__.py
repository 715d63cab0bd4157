"""Unit tests of the command line.

Commands start kernels or talk to Daytona, so integration tests cover most of their modules.

covers: console: tests/integration/test_live.py, tests/integration/test_attach.py
covers: doctor: tests/integration/test_doctor.py
covers: kernel_commands: tests/unit/jupyter/test_kernelspec.py
covers: recording_commands: tests/integration/test_replay_recorded.py, tests/unit/page/test_html.py
covers: run_commands: tests/test_cli.py, tests/test_demo.py, tests/integration/test_attach.py
covers: session_commands: tests/integration/test_daytona_gc.py, tests/integration/test_image.py
covers: session_commands: tests/integration/test_attach.py, tests/integration/test_live.py
"""
