"""Unit tests of export; each format has a test module of its own."""
