"""What `--model` may name."""

import json
from pathlib import Path

import pytest

from tinsmith.cli.sources import Source, find_source
from tinsmith.core.errors import UserError


def make_run(folder: Path, *records: dict[str, object]) -> Path:
    folder.mkdir()
    document = {"config": {"model": "tinsmith/tiny"}, "data": {"renderer": "chatml"}}
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "checkpoints.jsonl").write_text(lines, encoding="utf-8")
    return folder


def record(step: int, **paths: str) -> dict[str, object]:
    return {"name": f"{step:06d}", "step": step, "epoch": 0, "batch": step, **paths}


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
    run = make_run(tmp_path / "run", record(10, state_path="tinker://r/weights/000010"))
    with pytest.raises(UserError, match="no sampler weights yet"):
        find_source(str(run))


def test_a_run_is_its_last_sampler_weights_and_its_renderer(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        record(10, sampler_path="tinker://r/sampler_weights/000010"),
        record(20, sampler_path="tinker://r/sampler_weights/000020"),
        record(30, state_path="tinker://r/weights/000030"),
    )
    assert find_source(str(run)) == Source(
        base_model="tinsmith/tiny",
        model_path="tinker://r/sampler_weights/000020",
        renderer="chatml",
    )


def test_a_run_whose_configuration_is_lost_names_its_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", record(10, sampler_path="tinker://r/sampler_weights/000010"))
    (run / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json cannot be read") as caught:
        find_source(str(run))
    assert "tinker://r/sampler_weights/000010" in str(caught.value.hint)
