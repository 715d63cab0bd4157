"""DSPy's CodeInterpreter contract.

``KernelInterpreter`` and its parts: requests checked and encoded, results as DSPy expects them, values and files moved
without code, sessions reattached. Only here are errors raised that derive from DSPy's classes. Driving a kernel is
``client``; starting and ending sandbox, tunnel and kernel together is ``session``.
"""
