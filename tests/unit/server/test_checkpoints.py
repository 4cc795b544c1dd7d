"""Checkpoint paths: what is accepted, where it lies, and that nothing leaves the root."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.server.checkpoints import (
    CheckpointPath,
    CheckpointStore,
    check_name,
    parse_checkpoint_path,
)
from tinsmith.server.errors import MissingError, RequestError

ROOT = Path("/state/checkpoints")


def test_a_path_goes_back_and_forth() -> None:
    text = "tinker://1234-abcd:train:0/weights/step-100"
    path = parse_checkpoint_path(text, field="path", kind="weights")
    assert path == CheckpointPath("1234-abcd:train:0", "weights", "step-100")
    assert str(path) == text
    directory = CheckpointStore(ROOT).directory(path)
    assert directory == ROOT / "1234-abcd%3Atrain%3A0" / "weights" / "step-100"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "weights/a",
        "tinker://run/weights",
        "tinker://run/weights/a/b",
        "tinker:///weights/a",
        "tinker://run/weights/..",
        "http://run/weights/a",
    ],
)
def test_malformed_paths_are_refused_by_field(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_checkpoint_path(text, field="model_path", kind="weights")
    assert caught.value.field == "model_path"


def test_the_other_kind_of_checkpoint_is_refused_with_the_right_call() -> None:
    with pytest.raises(RequestError, match="use a path that save_weights returned"):
        parse_checkpoint_path("tinker://r/sampler_weights/a", field="path", kind="weights")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "\x00", "x" * 181])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="must be a plain name"):
        check_name(name, field="path")


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_no_two_names_share_a_directory_and_none_leaves_the_root(one: str, other: str) -> None:
    store = CheckpointStore(ROOT)
    directories: list[Path] = []
    for name in (one, other):
        try:
            check_name(name, field="path")
        except RequestError:
            return
        directory = store.directory(CheckpointPath("run", "weights", name))
        assert directory.parent == ROOT / "run" / "weights"
        assert not directory.name.startswith(".")
        directories.append(directory)
    assert (directories[0] == directories[1]) == (one == other)


def test_a_directory_without_its_record_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = CheckpointPath("run", "weights", "a")
    store.directory(path).mkdir(parents=True)
    with pytest.raises(MissingError, match="no such checkpoint"):
        store.read(path, field="path")
