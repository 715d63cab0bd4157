"""Inspection of a session while it runs.

The typed result of an inspection and its tables, ``live()`` for sessions of other processes, the client that joins such
a session, and the JupyterLab widget. Nothing here changes a session unless the user runs a cell in it. The answers are
made in ``guest.kernel`` and ``session.monitor_server``; recorded sessions belong to ``recording`` and ``page``. Nothing
here imports DSPy.
"""
