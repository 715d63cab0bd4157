"""The kernel's process in the sandbox.

An ipykernel kernel with the bridge to host tools, ``SUBMIT``, bounded output, the journal, the cache of large inputs
and replies to inspect requests. It needs ipykernel and the packages ``wire``, ``codec`` and ``transport``; it imports
nothing of the host's and nothing of the relay's. Starting and watching the process is ``guest.relay``.
"""
