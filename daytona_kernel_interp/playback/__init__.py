"""A recorded session used again.

``ReplayInterpreter`` answers a program from a recording without a kernel, ``replay`` runs a recording's cells in a
fresh kernel and reports divergences, ``diff`` compares two recordings, and the recorded language model answers as it
did then. Writing and reading recordings is ``recording``.
"""
