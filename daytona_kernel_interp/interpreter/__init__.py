"""DSPy's CodeInterpreter contract.

``KernelInterpreter`` and its parts: options, requests, results, errors, values and files moved without code, sessions
that change their host, the instructions for the model, and the ``interpreter=`` keyword of ``dspy.RLM``. Only this
package raises errors that derive from DSPy's classes. It does not drive a kernel (``client``), and does not start or
end sandbox, tunnel and kernel (``session``).
"""
