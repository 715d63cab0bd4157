"""A session as a notebook on disk.

The model of a recording, the recorder that writes it while the session runs, the reader, the values beside it, and the
DSPy callback that supplies reasoning and token counts. The file is valid at every instant. Running a recording again is
``playback``; showing it is ``page``; other formats are ``export``.
"""
