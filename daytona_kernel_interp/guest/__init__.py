"""The part of the package that runs in the sandbox.

``guest.relay`` is the process that owns the sandbox's WebSocket port and its kernel processes. ``guest.kernel`` is the
process of one kernel. Neither imports the other; the files by which they exchange data are described here
(``journal_files``). Both need only ipykernel and websockets besides the packages ``wire``, ``codec`` and ``transport``.
Code that runs on the host does not belong here. ``python -m daytona_kernel_interp.guest.relay`` starts a relay.
"""
