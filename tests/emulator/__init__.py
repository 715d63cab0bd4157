"""What the emulator can do that no service offers: faults, a clock that moves, isolation, and its refusals."""
