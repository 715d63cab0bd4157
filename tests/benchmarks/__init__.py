"""Benchmarks: this package and its peers, measured side by side on this machine.

``python -m tests.benchmarks`` (or ``make bench``) prints one table. The machine may be shared and noisy, so every
number of a row comes from the same rounds, taken in turns, and the targets that can be ratios are ratios.
"""
