"""Unit tests of the relay.

covers: __main__: tests/integration/test_relay_sandbox.py
covers: entrypoint: tests/integration/test_waiting_relay.py, tests/integration/test_image_recipe.py
covers: kernel_interface: tests/unit/guest/relay/test_server.py
covers: kernel_processes: tests/integration/test_kernels.py
covers: lifecycle: tests/integration/test_waiting_relay.py, tests/integration/test_relay_sandbox.py
"""
