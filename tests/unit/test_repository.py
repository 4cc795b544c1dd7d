"""Rules of the repository as a whole: what no file may contain, what every file has."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.assets import REPOSITORY

SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))
# Spelt in pieces, so that this file does not contain what it forbids.
FORBIDDEN = re.compile("|".join(["/wor" + "k/", "/hom" + r"e/\w+/", "/Us" + r"ers/\w+/"]))


def tracked_files() -> list[Path]:
    """Return the text files under version control."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [REPOSITORY / name for name in names if (REPOSITORY / name).is_file()]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}: {match.group()}" for match in FORBIDDEN.finditer(text)]
    assert found == []


def test_there_is_no_utils_module() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    named = {path for path in SOURCES if path.stem in vague or path.parent.name in vague}
    assert named == set()


def test_environment_variables_are_read_in_core_alone() -> None:
    reads = re.compile(r"os\.environ|os\.getenv|environ\[")
    readers = [
        str(path.relative_to(REPOSITORY))
        for path in SOURCES
        if "core" not in path.parts and reads.search(path.read_text(encoding="utf-8"))
    ]
    assert readers == []


def test_every_unit_test_folder_mirrors_a_room() -> None:
    rooms = {path.name for path in (REPOSITORY / "src" / "tinsmith").iterdir() if path.is_dir()}
    outside = {"tools", "bench", "__pycache__"}
    folders = {path.name for path in (REPOSITORY / "tests" / "unit").iterdir() if path.is_dir()}
    assert folders - rooms - outside == set()
