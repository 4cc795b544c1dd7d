"""An HTML page that grows as a run goes on: what was asked, what was answered, what is trained.

`TranscriptWriter` appends; the page can be read at any moment, since HTML needs no closing tags.
Every text is escaped: it comes from data and from models.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_HEAD = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; padding: .6rem }}
mark {{ background: #c9efc9 }}
details {{ margin: .4rem 0; border-left: 3px solid #ccc; padding-left: .8rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .1rem .8rem .1rem 0; text-align: left }}
</style>
<h1>{title}</h1>
"""


class TranscriptWriter:
    """Appends to a page; a new page gets a head."""

    def __init__(self, path: Path, title: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", errors="replace")
        if self._file.tell() == 0:
            self._write(_HEAD.format(title=html.escape(title)))

    def heading(self, text: str) -> None:
        """Begin a part."""
        self._write(f"<h2>{html.escape(text)}</h2>\n")

    def table(self, rows: Mapping[str, object]) -> None:
        """Show names and values."""
        cells = "".join(
            f"<tr><th>{html.escape(name)}<td>{html.escape(_shown(value))}"
            for name, value in rows.items()
        )
        self._write(f"<table>{cells}</table>\n")

    def conversation(self, title: str, messages: Iterable[tuple[str, str]]) -> None:
        """Show messages, each a role and a text, folded under a title."""
        parts = "".join(
            f"<b>{html.escape(role)}</b><pre>{html.escape(text)}</pre>" for role, text in messages
        )
        self._write(f"<details><summary>{html.escape(title)}</summary>{parts}</details>\n")

    def marked(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None:
        """Show a text whose marked pieces stand out, such as what is trained."""
        parts = "".join(
            f"<mark>{html.escape(text)}</mark>" if is_marked else html.escape(text)
            for text, is_marked in pieces
        )
        self._write(
            f"<details><summary>{html.escape(title)}</summary><pre>{parts}</pre></details>\n"
        )

    def close(self) -> None:
        """Finish writing; idempotent."""
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
