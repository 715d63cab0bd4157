"""The behaviour of Daytona: checks for the emulator and, with ``-m live`` and a key, for the real service.

Each check names its fact and its source (:mod:`tests.conformance.facts`). A check does not depend on which of the two
services it uses.
"""
