"""The record of the official package is that of the package that is installed."""

import json

import pytest

from tests.assets import REPOSITORY
from tests.tinker_surface import differences, surface_of

OFFICIAL = json.loads((REPOSITORY / "tests/golden/tinker_surface.json").read_text(encoding="utf-8"))


def test_the_recorded_surface_is_the_installed_packages() -> None:
    tinker = pytest.importorskip(
        "tinker", reason="the official client is not installed: NOT TESTED"
    )
    installed = surface_of("tinker")
    # What the record lacks, and what it has too much.
    assert differences(installed, OFFICIAL) == {}
    assert differences(OFFICIAL, installed) == {}
    if tinker.__version__ == OFFICIAL["version"]:
        assert installed == OFFICIAL
