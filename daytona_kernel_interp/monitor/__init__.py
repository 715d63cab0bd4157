"""Looking into a session while it runs.

The typed result of an inspection with its tables, ``live()`` for sessions of other processes, the client that joins
such a session, and the JupyterLab widget. Nothing here changes the session unless the user asks for it. What the kernel
answers is made in ``guest.kernel``; recorded sessions are ``recording`` and ``page``.
"""
