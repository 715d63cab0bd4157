"""The demo is tested as a whole, with a real kernel:

covers: script: tests/test_demo.py
covers: session: tests/test_demo.py
"""
