"""Every misuse of `tinsmith train sft` that the troubleshooting page names gives its error.

None of these needs a service: whatever is wrong with data or settings is said before one is asked.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.assets import REPOSITORY
from tests.unit.data.conftest import chat
from tinsmith.cli import main

pytestmark = pytest.mark.usefixtures("tiny_dir")

TROUBLESHOOTING = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
USER = {"role": "user", "content": "Hi"}
CALL = {"function": {"name": "f", "arguments": "{}"}}
TOOL_ROW = {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]}


class Misuse(NamedTuple):
    """What is typed, and what is said."""

    rows: list[Any]
    """Lines of `data.jsonl`."""
    flags: list[str]
    says: str
    """Part of the message."""
    page: str
    """Part of the page that helps."""
    code: int = 1


MISUSES = {
    "not JSON": Misuse([chat("Q"), "{"], [], "data.jsonl:2: not JSON", "not JSON"),
    "no messages": Misuse(
        [{"text": "x"}], [], "data.jsonl:1: messages is missing", "messages is missing"
    ),
    "no role": Misuse([{"messages": [{"content": ""}]}], [], "role is missing", "a message's role"),
    "no content": Misuse(
        [{"messages": [{"role": "user"}]}], [], "content is missing", "a message's role or content"
    ),
    "empty": Misuse([], [], "the file holds no conversation", "the file holds no conversation"),
    "old calls": Misuse(
        [{"messages": [{**USER, "function_call": {}}, {**USER, "function_call": {"name": "f"}}]}],
        [],
        "messages[1].function_call is set",
        "function_call is set",
    ),
    "too long": Misuse(
        [chat("Q", "word " * 200)],
        ["--max-length", "50"],
        "more than max_length=50",
        "longer than `max_length`",
    ),
    "all held out": Misuse(
        [chat("Q")],
        ["--test-size", "1"],
        "none would be left to train on",
        "none would be left to train on",
        2,
    ),
    "no held-out data": Misuse(
        [chat("Q")],
        ["--best-metric", "eval/nll"],
        "there is no held-out data",
        "there is no held-out data",
        2,
    ),
    "tools in a format without": Misuse(
        [TOOL_ROW],
        [],
        "data.jsonl:1: message 0: tool_calls is set: chatml cannot express it",
        "cannot express it",
    ),
    "unknown bundled model": Misuse(
        [chat("Q")], ["--model", "tinsmith/tiyn"], "model='tinsmith/tiyn': unknown", "model's name"
    ),
    "no model directory": Misuse(
        [chat("Q")], ["--model", "./none"], "model='./none': does not exist", "model's name"
    ),
    "unknown renderer": Misuse(
        [chat("Q")], ["--renderer", "chatlm"], "renderer='chatlm': unknown", "unknown; known"
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_documented_misuse_gives_its_documented_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    misuse = MISUSES[name]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in misuse.rows]
    Path("data.jsonl").write_text("".join(f"{line}\n" for line in lines))
    code = main(["train", "sft", "data.jsonl", "--run-dir", "run", *misuse.flags])
    said = capsys.readouterr()
    assert said.out == ""
    assert misuse.says in said.err
    assert said.err.startswith("error: ")
    assert "\nhint: " in said.err
    assert "Traceback" not in said.err
    assert code == misuse.code
    assert not Path("run").exists()
    assert misuse.page in TROUBLESHOOTING


def test_a_file_and_a_data_set_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sft", "none.jsonl"]) == 1
    assert "none.jsonl: does not exist" in capsys.readouterr().err
    pytest.importorskip("datasets", reason="needs the extra data")
    assert main(["train", "sft", "hf:no-such-owner/no-such-set"]) == 1
    assert "could not be loaded" in capsys.readouterr().err
    assert "`could not be loaded`" in TROUBLESHOOTING


def test_a_run_that_is_there_is_not_overwritten_and_not_resumed_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.training.fakes import FakeService
    from tinsmith.training import SupervisedConfig, run_supervised

    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text(json.dumps(chat("Q")) + "\n")
    config = SupervisedConfig(data="data.jsonl", run_dir=Path("run"))
    run_supervised(config, service=FakeService())  # type: ignore[arg-type]
    assert main(["train", "sft", "data.jsonl", "--run-dir", "run"]) == 2
    assert "holds a run" in capsys.readouterr().err
    flags = ["--if-exists", "resume", "--seed", "7"]
    assert main(["train", "sft", "data.jsonl", "--run-dir", "run", *flags]) == 2
    assert "seed=7: the run to resume has 0" in capsys.readouterr().err
    Path("data.jsonl").write_text(json.dumps(chat("other")) + "\n")
    flags = ["--if-exists", "resume"]
    assert main(["train", "sft", "data.jsonl", "--run-dir", "run", *flags]) == 2
    assert "the data has changed since this run began" in capsys.readouterr().err
    for quote in ("holds a run", "the run to resume has", "the data has changed"):
        assert quote in TROUBLESHOOTING
