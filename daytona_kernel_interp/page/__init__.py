"""Render a session as HTML.

The page shows timeline, values and outputs of a recorded session, and needs no server and no network. The notebook view
is a short form of it. Everything that comes from a session is untrusted and is rendered inert. This package reads no
files: that belongs to ``recording``. The page needs the extra ``report``, the notebook view does not.
"""
