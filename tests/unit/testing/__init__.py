"""Unit tests of the emulator.

Its service is tested through the SDK, by ``tests/conformance`` and ``tests/emulator``.

covers: api: tests/conformance/test_sandboxes.py, tests/conformance/test_images.py
covers: bodies: tests/conformance/test_sandboxes.py, tests/emulator/test_faults.py
covers: clock: tests/emulator/test_clock.py
covers: commands: tests/conformance/test_toolbox.py
covers: control: tests/emulator/test_ways_in.py
covers: egress: tests/emulator/test_isolation.py
covers: emulator: tests/emulator/test_ways_in.py
covers: events: tests/conformance/test_sandboxes.py
covers: faults: tests/unit/testing/test_parts.py, tests/emulator/test_faults.py
covers: files: tests/conformance/test_files.py, tests/emulator/test_security.py
covers: images: tests/unit/testing/test_parts.py, tests/conformance/test_images.py
covers: interpreters: tests/conformance/test_toolbox.py
covers: names: tests/unit/testing/test_parts.py
covers: operations: tests/unit/testing/test_parts.py, tests/emulator/test_security.py
covers: pid1: tests/emulator/test_processes.py
covers: pipes: tests/emulator/test_processes.py
covers: plugin: tests/emulator/test_ways_in.py
covers: preview: tests/conformance/test_previews.py, tests/emulator/test_refusals.py
covers: processes: tests/emulator/test_processes.py
covers: server: tests/emulator/test_security.py
covers: sessions: tests/conformance/test_toolbox.py
covers: toolbox: tests/conformance/test_toolbox.py
covers: tube: tests/emulator/test_faults.py
covers: upstream: tests/conformance/test_previews.py, tests/emulator/test_faults.py
covers: worker: tests/conformance/test_toolbox.py
covers: world: tests/emulator/test_clock.py, tests/emulator/test_pause.py
covers: __main__: tests/emulator/test_ways_in.py
"""
