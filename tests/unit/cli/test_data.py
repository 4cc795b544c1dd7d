"""`tinsmith data check`: every number is right, and a bad row stops nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.conftest import chat
from tinsmith.cli import main
from tinsmith.renderers import get_renderer, get_tokenizer

pytestmark = pytest.mark.usefixtures("tiny_dir")


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def checked(capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> tuple[int, Any]:
    code = main(["data", "check", str(path), *flags, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_the_renderer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [chat(f"Question {i}?", "word " * (3 * i + 1)) for i in range(12)] + [
        chat("Question 0?", "word ")
    ]
    code, report = checked(capsys, write(tmp_path / "a.jsonl", rows), "--max-length", "30")
    renderer = get_renderer("chatml", get_tokenizer("tinsmith/tiny"))
    examples = [renderer.build_supervised_example(row["messages"]) for row in rows]
    lengths = [example.model_input.length for example in examples]
    assert code == 0
    assert report["renderer"] == "chatml"
    assert report["num_conversations"] == 13
    assert report["num_repeats"] == 1
    assert report["messages_by_role"] == {"user": 13, "assistant": 13}
    assert report["num_tokens"] == sum(lengths)
    assert report["num_loss_tokens"] == sum(int(example.weights.sum()) for example in examples)
    assert report["num_too_long"] == sum(length > 30 for length in lengths)
    assert report["num_tokens_beyond"] == sum(max(length - 30, 0) for length in lengths)
    assert report["num_loss_tokens_beyond"] == sum(int(e.weights[30:].sum()) for e in examples)
    assert report["length_percentiles"]["p0"] == min(lengths)
    assert report["length_percentiles"]["p100"] == max(lengths)
    for bin_ in report["lengths"]:
        inside = [n for n in lengths if bin_["start"] <= n < bin_["end"]]
        assert bin_["num_conversations"] == len(inside)
    assert sum(bin_["num_conversations"] for bin_ in report["lengths"]) == 13


def test_examples_say_what_is_trained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"Q{i}", f"A{i}") for i in range(9)])
    _, report = checked(capsys, path)
    assert [example["line"] for example in report["examples"]] == [1, 5, 9]
    trained = [p["text"] for p in report["examples"][1]["pieces"] if p["is_trained"]]
    assert trained == ["A4<|im_end|>"]
    assert main(["data", "check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "«A4<|im_end|>»" in shown
    assert "trained" in shown


def test_every_problem_is_listed_with_its_line_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [
        chat("Q1"),
        "not JSON",
        {"messages": []},
        {**chat("Q2"), "tools": [{"name": "f"}]},
        chat("Q3"),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    code, report = checked(capsys, path)
    assert code == 1
    assert [problem["line"] for problem in report["problems"]] == [2, 3, 4]
    assert "tools are given" in report["problems"][2]["message"]
    assert all(problem["hint"] for problem in report["problems"])
    assert report["num_conversations"] == 2
    assert main(["data", "check", str(path)]) == 1
    assert f"{path}:2: not JSON" in capsys.readouterr().out


def test_a_file_of_problems_alone_is_reported_and_an_empty_one_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, report = checked(capsys, write(tmp_path / "a.jsonl", ["{", "{"]))
    assert (code, report["num_problems"], report["lengths"]) == (1, 2, [])
    assert main(["data", "check", str(write(tmp_path / "b.jsonl", []))]) == 1
    assert "the file holds no conversation" in capsys.readouterr().err


def test_control_characters_of_a_file_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [chat("\x1b[2J", "\x1b]0;x\x07")])
    main(["data", "check", str(path)])
    assert "\x1b" not in capsys.readouterr().out


def test_a_misspelt_choice_gets_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [chat("Q")])
    assert main(["data", "check", str(path), "--train-on-what", "all_assistant_message"]) == 1
    assert "did you mean 'all_assistant_messages'" in capsys.readouterr().err
