"""Use recorded sessions: offline, in a fresh kernel, or side by side.

``ReplayInterpreter`` returns recorded results without a kernel, and ``RecordedLM`` the recorded answers of the language
model. ``replay`` runs the steps of a recording in a fresh kernel and reports divergences. ``diff`` compares two
recordings. Reading and writing recordings belongs to ``recording``, rendering them to ``page``.
"""
