"""One running session: sandbox, tunnel, kernel and tool runner.

They are started and closed as one, or reattached after the host process of an earlier session has ended. The session
file lets other processes find a session; the monitor server answers them. Driving the kernel is ``client``; DSPy's
contract is ``interpreter``.
"""
