"""Unit tests of the emulated Daytona; most of it is covered by the conformance checks and the emulator's own tests.

covers: __main__: tests/conformance, tests/emulator
covers: api: tests/conformance, tests/emulator
covers: bodies: tests/conformance, tests/emulator
covers: clock: tests/conformance, tests/emulator
covers: commands: tests/conformance, tests/emulator
covers: control: tests/conformance, tests/emulator
covers: egress: tests/conformance, tests/emulator
covers: emulator: tests/conformance, tests/emulator
covers: events: tests/conformance, tests/emulator
covers: faults: tests/conformance, tests/emulator
covers: files: tests/conformance, tests/emulator
covers: images: tests/conformance, tests/emulator
covers: interpreters: tests/conformance, tests/emulator
covers: names: tests/conformance, tests/emulator
covers: operations: tests/conformance, tests/emulator
covers: pid1: tests/conformance, tests/emulator
covers: pipes: tests/conformance, tests/emulator
covers: plugin: tests/conformance, tests/emulator
covers: preview: tests/conformance, tests/emulator
covers: processes: tests/conformance, tests/emulator
covers: server: tests/conformance, tests/emulator
covers: sessions: tests/conformance, tests/emulator
covers: toolbox: tests/conformance, tests/emulator
covers: tube: tests/conformance, tests/emulator
covers: upstream: tests/conformance, tests/emulator
covers: worker: tests/conformance, tests/emulator
covers: world: tests/conformance, tests/emulator
"""
