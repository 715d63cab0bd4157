"""Where kernels run.

Frozen, picklable descriptions of sandboxes and the running sandboxes they start: a child process, a relay started by
hand, or a sandbox at Daytona (``sandboxes.daytona``, the only package that imports Daytona's SDK). A sandbox ends at
the address of its relay; what is said to the relay is ``tunnel``.
"""
