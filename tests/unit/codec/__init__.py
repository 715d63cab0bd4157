"""Unit tests of the codec.

The codec modules of libraries are tested together, by kinds of values.

covers: json_form: tests/unit/codec/test_values.py
covers: numpy_codec: tests/unit/codec/test_libraries.py
covers: pandas_arrow: tests/unit/codec/test_pyarrow_codec.py
covers: pandas_codec: tests/unit/codec/test_libraries.py
covers: pillow_codec: tests/unit/codec/test_libraries.py
covers: polars_codec: tests/unit/codec/test_libraries.py, tests/unit/codec/test_pyarrow_codec.py
covers: pydantic_codec: tests/unit/codec/test_values.py
covers: records: tests/unit/codec/test_values.py
covers: time_zones: tests/unit/codec/test_libraries.py
covers: unpacking: tests/unit/codec/test_bad_values.py
covers: value_hash: tests/integration/test_exchange.py, tests/integration/test_replay_golden.py
"""
