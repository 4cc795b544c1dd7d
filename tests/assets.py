"""Where tests find the offline assets: real chat data, tokenizers and golden texts.

The assets are not part of the repository. `TINSMITH_TEST_ASSETS` names their folder; without it a
checkout that has `shared/assets` beside it uses that. Tests that need them skip loudly otherwise.
"""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

__all__ = ["REPOSITORY", "asset", "assets_dir"]


def assets_dir() -> Path | None:
    """Return the folder of test assets, or None where there is none."""
    named = os.environ.get("TINSMITH_TEST_ASSETS")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "assets"
    return folder if folder.is_dir() else None


def asset(*parts: str) -> Path:
    """Return one asset's path, or skip the calling test and say what is missing."""
    folder = assets_dir()
    if folder is None:
        pytest.skip("no test assets: set TINSMITH_TEST_ASSETS to their folder")
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"test asset {'/'.join(parts)} is not in {folder}")
    return path
