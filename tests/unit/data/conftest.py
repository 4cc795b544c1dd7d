"""Files and formats that data tests share."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinsmith.renderers import ChatMLRenderer, get_tokenizer

WriteLines = Callable[[Sequence[Any]], Path]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Writes rows as JSONL; a string is written as it stands."""

    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "data.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def chatml(tiny_dir: object) -> ChatMLRenderer:
    return ChatMLRenderer(get_tokenizer("tinsmith/tiny"))


def chat(question: str, answer: str = "Yes.") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
