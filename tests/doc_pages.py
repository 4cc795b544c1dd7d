"""The documentation as material for tests: its pages, and the fenced blocks in them.

The `python` blocks of a page run in one namespace, the `console` lines behind `$` run as commands,
and a block with `title="NAME"` is a file that both may use. Other fences are for reading.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.assets import REPOSITORY

__all__ = ["PAGES", "Block", "blocks_of", "console_commands"]

PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")],
    key=lambda path: path.relative_to(REPOSITORY).as_posix(),
)

_FENCE = re.compile(
    r"^```(?P<language>\w+)(?:[^\n]*title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=found["language"],
            title=found["title"],
            text=found["text"],
        )
        for found in _FENCE.finditer(text)
    ]


def console_commands(block: Block) -> list[list[str]]:
    """Return the words of every command in a console block."""
    lines = block.text.splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]
