"""Tests that drive a real browser. A package, so that file names may repeat those of tests/."""
