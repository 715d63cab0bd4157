"""Host functions offered to cells.

Describes a function for the cell, binds a call's arguments to its parameters, converts them to annotated types, runs it
in a worker thread in the caller's context, and encodes its result or error. How calls reach the host is ``client``; the
stub in the cell is ``guest.kernel.bridge``.
"""
