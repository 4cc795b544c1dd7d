"""Prompts with answers, for evaluation and reinforcement learning: GSM8K, MATH and the like.

A row has a prompt (`prompt`, `question` or `problem`: text, or messages) and an answer (`answer` or
`solution`, text).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.core.errors import DataError
from tinsmith.data.hub import PREFIX, open_hub
from tinsmith.data.messages import checked_messages
from tinsmith.data.rows import RowProblem, digest, json_kind, open_rows
from tinsmith.renderers.messages import Message

PROMPT_FIELDS = ("prompt", "question", "problem")
ANSWER_FIELDS = ("answer", "solution")
_GROUPED_NUMBER = re.compile(r"[-+$]?\d{1,3}(,\d{3})+(\.\d+)?")
_EXAMPLE = '{"question": "2 + 2?", "answer": "4"}'


@dataclass(frozen=True)
class Prompt:
    """One row.

    Attributes:
        messages: What the model is asked.
        answer: The whole answer as the file has it.
        path: File it comes from.
        line: Its line there, counted from 1.
    """

    messages: tuple[Message, ...]
    answer: str
    path: str
    line: int

    @property
    def final_answer(self) -> str:
        """What is to be compared: see `final_answer`."""
        return final_answer(self.answer)

    def fingerprint(self) -> bytes:
        return digest([self.messages, self.answer])


def final_answer(text: str) -> str:
    r"""What is in the last `\boxed{}` (MATH), else after the last `####` (GSM8K), else all of it.

    Commas that group the digits of a number are taken out.

    Example:
        >>> final_answer("He has 3 * 400 left. #### 1,200")
        '1200'
    """
    boxed = _last_boxed(text)
    found = boxed if boxed is not None else text.rpartition("####")[2].strip()
    return found.replace(",", "") if _GROUPED_NUMBER.fullmatch(found) else found


def _last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`, braces in it balanced."""
    before, mark, rest = text.rpartition("\\boxed{")
    if not mark:
        return None
    depth = 1
    for place, char in enumerate(rest):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return rest[:place].strip()
    return _last_boxed(before)


def read_prompts(path: str | Path) -> Sequence[Prompt]:
    """Open a file (JSON lines or Parquet) or a data set (`hf:NAME`) and check every row.

    Raises:
        DataError: `path:line: what is wrong`, with the cure.
    """
    if str(path).startswith(PREFIX):
        return open_hub(str(path), "prompts", parse_prompt)
    rows = open_rows(path, parse_prompt, (*PROMPT_FIELDS, *ANSWER_FIELDS))
    if not len(rows):
        raise DataError(
            f"{path}: the file holds no prompt",
            field="data",
            file=str(path),
            hint=f"write one a line, such as {_EXAMPLE}",
        )
    return rows


def parse_prompt(row: Any, path: str, line: int) -> Prompt:
    """Makes a prompt of a row.

    Raises:
        RowProblem: What is wrong, and the cure.
    """
    if not isinstance(row, Mapping):
        raise RowProblem(
            f"the line is a JSON {json_kind(row)}, not an object", f"such as {_EXAMPLE}"
        )
    asked = _one_of(row, PROMPT_FIELDS)
    answer = row[_one_of(row, ANSWER_FIELDS)]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise RowProblem(f"the answer is a JSON {json_kind(answer)}, not text", "write it as text")
    value = row[asked]
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    return Prompt(checked_messages(messages, asked), str(answer), path, line)


def _one_of(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    found = next((name for name in fields if row.get(name) is not None), None)
    if found is None:
        keys = ", ".join(map(str, row)) or "none"
        raise RowProblem(
            f"{' or '.join(fields)} is missing (keys here: {keys})", f"such as {_EXAMPLE}"
        )
    return found
