"""`tinsmith model-info`: the table for people and for programs."""

import json

import pytest

from tinsmith.cli import main
from tinsmith.renderers import list_models


def test_a_model_is_told_with_what_to_start_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model-info", "meta-llama/Llama-3.1-8B-Instruct"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["renderers"] == "llama3_1, llama3"
    assert shown["context"] == "131,072 tokens"
    assert "2.86e-04" in shown["learning"]


def test_json_tells_the_same_and_the_list_has_every_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model-info", "Qwen/Qwen3.5-4B", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["learning_rate"] is None
    assert told["lora"]["rank"] == 32
    assert main(["model-info", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["models"]
    assert [row["name"] for row in listed] == list_models()
    assert main(["model-info"]) == 0
    assert "Qwen/Qwen3-8B" in capsys.readouterr().out


def test_an_unknown_model_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model-info", "Qwen/Qwen3-8"]) == 1
    assert "hint: did you mean 'Qwen/Qwen3-8B'?" in capsys.readouterr().err
