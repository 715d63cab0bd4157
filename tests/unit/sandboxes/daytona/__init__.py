"""Unit tests of sandboxes at Daytona. Most of the package is tested against the emulated service.

covers: __init__: tests/unit/sandboxes/daytona/test_daytona_sandbox.py
covers: api: tests/integration/test_daytona.py, tests/integration/test_daytona_gc.py
covers: create: tests/integration/test_daytona.py
covers: guest_archive: tests/integration/test_image_recipe.py
covers: orphans: tests/integration/test_daytona_gc.py
covers: probe_script: tests/integration/test_daytona_traps.py, tests/integration/test_image.py
covers: sandbox: tests/integration/test_daytona.py, tests/integration/test_daytona_life.py
covers: snapshot_build: tests/integration/test_image.py
"""
