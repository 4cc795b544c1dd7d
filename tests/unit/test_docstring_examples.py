"""Every `>>>` example in a docstring gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import tinsmith

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tinsmith.__path__, "tinsmith.")
    if not module.name.endswith(("__main__", "_pb2"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{name}: {result.failed} of {result.attempted} examples fail"
