"""Where the kernel runs: frozen, picklable descriptions, and the running sandboxes they start."""
