"""A session as one HTML page.

Timeline, values and outputs of a recorded session as a page without server or network, and the short view that a
notebook shows. Everything that comes from a session is untrusted and is rendered inert. Files are read in
``recording``; this package only renders what it is given. Needs the extra ``report``.
"""
