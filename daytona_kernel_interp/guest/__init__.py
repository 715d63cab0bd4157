"""What runs inside the sandbox.

``guest.relay`` is the process that owns the sandbox's WebSocket port and its kernel processes; ``guest.kernel`` is the
process of one kernel. Both need only ipykernel and websockets besides the packages ``wire``, ``codec`` and
``transport``; neither imports anything of the host's. ``python -m daytona_kernel_interp.guest.relay`` starts a relay.
"""
