"""Tests of features that only the emulator has: faults, an adjustable clock, isolation, and its refusals."""
