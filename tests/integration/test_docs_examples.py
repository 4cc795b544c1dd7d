"""Every example of the documentation runs, in order, in an empty folder, with a real service."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets import REPOSITORY
from tests.doc_pages import PAGES, Block, blocks_of, console_commands

TINSMITH = Path(sys.executable).with_name("tinsmith")
RUNNABLE = [
    page
    for page in PAGES
    if any(
        block.language == "python"
        or (
            block.language == "console"
            and any(words[0] == "tinsmith" for words in console_commands(block))
        )
        for block in blocks_of(page)
    )
]

pytestmark = pytest.mark.integration


def run_console(block: Block, folder: Path) -> None:
    """Run the `tinsmith` commands of a block; `make` and shell built-ins are left out."""
    for words in console_commands(block):
        if words[0] != "tinsmith":
            continue
        done = subprocess.run(
            [str(TINSMITH), *words[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}: {' '.join(words)}\n{done.stderr}"


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinsmith.recipes.demo_conversations import make_conversations, write_jsonl

    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "conversations.jsonl", make_conversations(seed=0, count=24))
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in blocks_of(page):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            run_console(block, tmp_path)
        elif block.language == "python":
            code = compile(block.text, block.place, "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, namespace)
