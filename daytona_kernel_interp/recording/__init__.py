"""Record a session as a notebook, and read it back.

Here are the model of a recording, the recorder that writes it while the session runs, the reader, the store of values
beside the notebook, and the DSPy callback that supplies reasoning, tokens and cost. The notebook is complete and valid
at every instant. Running a recording again is the package ``playback``, showing it is ``page``, converting it to other
formats is ``export``.
"""
