"""Unit tests of page. Covered elsewhere:

covers: charts: tests/unit/page/test_timeline.py
covers: shown_values: tests/unit/page/test_html.py
"""
