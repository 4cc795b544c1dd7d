"""Comparisons and prompts: every form that data sets have, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.assets import asset
from tests.unit.data.conftest import WriteLines
from tinsmith.core.errors import DataError
from tinsmith.data import final_answer, read_comparisons, read_prompts

USER = {"role": "user", "content": "Q"}
GOOD = {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_every_form_of_a_comparison_reads_the_same(write_lines: WriteLines, row: Any) -> None:
    (found,) = read_comparisons(write_lines([row]))
    assert (found.prompt, found.chosen, found.rejected) == ((USER,), (GOOD,), (BAD,))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ([1], "the line is a JSON list, not an object"),
        ({"prompt": "Q", "chosen": "x"}, "rejected is missing (keys here: prompt, chosen)"),
        ({"prompt": "Q", "chosen": "x", "rejected": "x"}, "chosen and rejected are the same"),
        ({"chosen": "x", "rejected": "y"}, "there is no prompt"),
        ({"prompt": 5, "chosen": "x", "rejected": "y"}, "prompt is a JSON number, not a list"),
        ({"prompt": "Q", "chosen": [{"role": "assistant"}], "rejected": "y"}, "chosen[0].content"),
        (
            {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER]},
            "rejected adds nothing to the prompt",
        ),
    ],
)
def test_a_bad_comparison_is_named_with_its_line(
    write_lines: WriteLines, row: Any, what: str
) -> None:
    path = write_lines([{"prompt": "Q", "chosen": "a", "rejected": "b"}, row])
    with pytest.raises(DataError) as caught:
        read_comparisons(path)
    assert str(caught.value).startswith(f"{path}:2: {what}")
    assert caught.value.hint


def test_real_comparisons_and_prompts_load() -> None:
    pairs = read_comparisons(asset("data", "gsm8k", "preference_pairs.jsonl"))
    assert len(pairs) == 731
    train = read_prompts(asset("data", "gsm8k", "train.jsonl"))
    assert len(train) == 7473
    assert train[0].final_answer == "72"
    assert all(prompt.final_answer.lstrip("-").replace(".", "").isdigit() for prompt in train[:500])
    problems = read_prompts(asset("data", "math500.jsonl"))
    assert problems[0].final_answer == r"2\sqrt3"
    assert all("boxed" not in prompt.final_answer for prompt in problems)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so it is\n#### 1,234", "1234"),
        ("#### -5", "-5"),
        ("plain", "plain"),
        (r"\boxed{a} then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{(1,2)}", "(1,2)"),
        (r"\boxed{a} but \boxed{never closed", "a"),
        ("$1,000,000", "$1000000"),
        ("1,2", "1,2"),
    ],
)
def test_the_answer_to_compare_is_found(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "x"}, "prompt or question or problem is missing (keys here: text)"),
        ({"question": "x"}, "answer or solution is missing (keys here: question)"),
        ({"question": "x", "answer": ["y"]}, "the answer is a JSON list, not text"),
        ({"question": 3, "answer": "y"}, "question is a JSON number, not a list"),
    ],
)
def test_a_bad_prompt_is_named_with_its_line(write_lines: WriteLines, row: Any, what: str) -> None:
    path = write_lines([row])
    with pytest.raises(DataError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}:1: {what}")


def test_an_answer_may_be_a_number_and_a_prompt_may_be_messages(write_lines: WriteLines) -> None:
    (found,) = read_prompts(write_lines([{"prompt": [USER], "answer": 4}]))
    assert (found.messages, found.answer) == ((USER,), "4")


@pytest.mark.parametrize("read", [read_comparisons, read_prompts])
def test_an_empty_file_is_refused(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(json.dumps("")[:0])
    with pytest.raises(DataError, match="the file holds no"):
        read(path)
