"""What a Daytona does: one list of checks, for the emulator and, with ``-m live`` and a key, for the real service.

Each check names its fact and how it is known (:mod:`tests.conformance.facts`); nothing in a check asks which of the
two it talks to.
"""
