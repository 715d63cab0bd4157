"""Unit tests of page. Covered elsewhere:

covers: shown_values: tests/unit/page/test_html.py
"""
