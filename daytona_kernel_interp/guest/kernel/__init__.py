"""The kernel's process in the sandbox.

An ipykernel kernel with the bridge to host tools, ``SUBMIT``, bounded output, the journal, the cache of large inputs
and replies to inspect requests. It needs ipykernel and the packages ``wire``, ``codec`` and ``transport``. It imports
neither host packages nor the relay. Code that starts and watches this process belongs to ``guest.relay``.
"""
