"""What runs inside the sandbox: the relay, and the kernel with its end of the bridge.

``python -m daytona_kernel_interp.guest`` starts the relay. Needs ``ipykernel`` and ``websockets`` there, and
imports nothing of ours but :mod:`daytona_kernel_interp.wire` and :mod:`daytona_kernel_interp.link`.
"""
