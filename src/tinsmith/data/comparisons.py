"""Comparisons: a prompt with a better and a worse answer, for preference learning.

A row has `prompt`, `chosen` and `rejected`: text, or messages. Without `prompt`, what `chosen` and
`rejected` share at their beginning is the prompt, as in many data sets of the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.core.errors import DataError
from tinsmith.data.hub import PREFIX, open_hub
from tinsmith.data.messages import checked_messages
from tinsmith.data.rows import RowProblem, digest, json_kind, open_rows
from tinsmith.renderers.messages import Message

COLUMNS = ("prompt", "chosen", "rejected")
_EXAMPLE = '{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}'


@dataclass(frozen=True)
class Comparison:
    """One row.

    Attributes:
        prompt: The conversation so far; ends before the answers.
        chosen: Messages of the better answer.
        rejected: Messages of the worse answer.
        path: File it comes from.
        line: Its line there, counted from 1.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    path: str
    line: int

    def fingerprint(self) -> bytes:
        return digest([self.prompt, self.chosen, self.rejected])


def read_comparisons(path: str | Path) -> Sequence[Comparison]:
    """Open a file (JSON lines or Parquet) or a data set (`hf:NAME`) and check every row.

    Raises:
        DataError: `path:line: what is wrong`, with the cure.
    """
    if str(path).startswith(PREFIX):
        return open_hub(str(path), "comparisons", parse_comparison)
    rows = open_rows(path, parse_comparison, COLUMNS)
    if not len(rows):
        raise DataError(
            f"{path}: the file holds no comparison",
            field="data",
            file=str(path),
            hint=f"write one a line, such as {_EXAMPLE}",
        )
    return rows


def parse_comparison(row: Any, path: str, line: int) -> Comparison:
    """Makes a comparison of a row.

    Raises:
        RowProblem: What is wrong, and the cure.
    """
    if not isinstance(row, Mapping):
        raise RowProblem(
            f"the line is a JSON {json_kind(row)}, not an object", f"such as {_EXAMPLE}"
        )
    for key in ("chosen", "rejected"):
        if key not in row:
            keys = ", ".join(map(str, row)) or "none"
            raise RowProblem(f"{key} is missing (keys here: {keys})", f"such as {_EXAMPLE}")
    chosen = _messages(row["chosen"], "chosen", "assistant")
    rejected = _messages(row["rejected"], "rejected", "assistant")
    if row.get("prompt") is None:
        prompt = _shared_start(chosen, rejected)
    else:
        prompt = _messages(row["prompt"], "prompt", "user")
    if not prompt:
        raise RowProblem("there is no prompt: chosen and rejected share no message", "add prompt")
    # Some data sets repeat the prompt in both answers.
    if chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not chosen or not rejected:
        empty = "rejected" if chosen else "chosen"
        raise RowProblem(
            f"{empty} adds nothing to the prompt", "remove the line, or add the answer"
        )
    if chosen == rejected:
        raise RowProblem("chosen and rejected are the same", "remove the line")
    return Comparison(prompt, chosen, rejected, path, line)


def _messages(value: Any, where: str, role: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return checked_messages([{"role": role, "content": value}], where)
    return checked_messages(value, where)


def _shared_start(chosen: Sequence[Message], rejected: Sequence[Message]) -> tuple[Message, ...]:
    """Equal messages at both beginnings; the last of each is never part of it."""
    shared: list[Message] = []
    for better, worse in zip(chosen[:-1], rejected[:-1], strict=False):
        if better != worse:
            break
        shared.append(better)
    return tuple(shared)
