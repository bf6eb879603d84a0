"""Every example in a docstring is run and must print what it says."""

import doctest
import importlib
import pkgutil

import pytest

import nanochat

MODULES = sorted(found.name for found in pkgutil.walk_packages(nanochat.__path__, "nanochat."))


@pytest.mark.slow
def test_the_examples_of_every_module_are_true():
    results = {name: doctest.testmod(importlib.import_module(name)) for name in MODULES}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) > 60
