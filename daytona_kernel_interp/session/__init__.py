"""One running session: sandbox, tunnel, kernel and tool runner.

They are started and closed together, or attached to after the host process of an earlier session has ended. Other
processes find a session by its session file and send their requests to its monitor server. ``client`` drives the
kernel; ``interpreter`` implements DSPy's protocol.
"""
