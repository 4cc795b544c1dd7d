"""What `--model` may name."""

import json
from pathlib import Path

import pytest

from tinsmith.cli.sources import Source, find_source
from tinsmith.core.errors import UserError


def make_run(folder: Path, *records: dict[str, object]) -> Path:
    folder.mkdir()
    config = {"model": "tinsmith/tiny", "renderer": "chatml"}
    (folder / "config.json").write_text(json.dumps({"config": config}), encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "checkpoints.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_a_name_is_a_base_model() -> None:
    assert find_source("tinsmith/tiny") == Source(base_model="tinsmith/tiny")


def test_an_address_is_sampler_weights() -> None:
    address = "tinker://run/sampler_weights/final"
    assert find_source(address) == Source(base_model=None, model_path=address)


def test_a_model_s_folder_is_a_base_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert find_source(str(tmp_path)) == Source(base_model=str(tmp_path))


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run nor a model"):
        find_source(str(tmp_path))


def test_a_run_without_sampler_weights_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"name": "000010", "state_path": "tinker://r/weights/000010"})
    with pytest.raises(UserError, match="no sampler weights yet"):
        find_source(str(run))
