"""Sandboxes: the machines and processes in which kernels run.

A description (``LocalSandbox``, ``RelaySandbox``, ``DaytonaSandbox``) is frozen, can be pickled, and starts nothing by
itself. Its ``start`` returns a running sandbox: a child process, a relay that was started elsewhere, or a sandbox at
Daytona (``sandboxes.daytona``, the only package that imports Daytona's SDK). A running sandbox has the address of its
relay; talking to the relay belongs to ``tunnel``.
"""
