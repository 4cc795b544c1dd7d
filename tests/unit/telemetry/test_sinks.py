"""Sinks: what is written can be read, at any moment, and nothing in it is taken for markup."""

import importlib.util
import io
import json
import logging
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.core.errors import MissingExtraError
from tinsmith.telemetry import ConsoleRecorder, TraceWriter, TranscriptWriter, WandbRecorder


class Page(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HOSTILE = ["<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>", "&amp; \"'", "<!--"]
SAFE_TAGS = {
    *("meta", "title", "style", "h1", "h2", "table", "tr", "th", "td"),
    *("details", "summary", "b", "pre", "mark"),
}


@given(texts=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)), min_size=4))
def test_texts_of_a_transcript_are_never_markup_and_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("page") / "transcript.html"
    page = TranscriptWriter(path, texts[0])
    page.heading(texts[1])
    page.table({texts[2]: texts[3]})
    page.conversation(texts[0], [(text, text) for text in texts])
    page.marked(texts[1], [(text, place % 2 == 0) for place, text in enumerate(texts)])
    page.close()
    found = Page(path.read_bytes().decode())
    assert found.tags <= SAFE_TAGS
    whole = "".join(found.texts)
    for text in texts:
        # Half characters become "?", and a page reads carriage returns as line ends.
        clean = text.encode("utf-8", "replace").decode()
        assert clean in whole or "\r" in clean or "\x00" in clean


def test_a_transcript_can_be_read_at_any_moment_and_goes_on_with_one_head(tmp_path: Path) -> None:
    path = tmp_path / "transcript.html"
    first = TranscriptWriter(path, "run")
    first.heading("one")
    assert "<h2>one</h2>" in path.read_text()
    first.close()
    second = TranscriptWriter(path, "run")
    second.heading("two")
    second.close()
    assert path.read_text().count("<!doctype html>") == 1


def read_trace(path: Path) -> list[dict[str, Any]]:
    """As Perfetto reads it: the array may lack its end."""
    return json.loads(path.read_text().rstrip().rstrip(",") + "]")


def test_spans_are_complete_events_with_their_times_also_where_a_block_raises(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.json"
    trace = TraceWriter(path)
    trace.complete("step", 1_000_000, 3_500_000, lane=2, step=7)
    with pytest.raises(KeyError), trace.span("evaluate", step=8):
        raise KeyError
    events = read_trace(path)
    assert events[0]["ts"] == 1000
    assert events[0]["dur"] == 2500
    assert (events[0]["name"], events[0]["ph"], events[0]["tid"]) == ("step", "X", 2)
    assert events[0]["args"] == {"step": 7}
    assert events[1]["name"] == "evaluate"
    assert events[1]["dur"] >= 0
    trace.close()
    again = TraceWriter(path)
    again.complete("step", 0, 1)
    again.close()
    assert len(read_trace(path)) == 3


def test_the_console_shows_the_columns_asked_for_and_names_them() -> None:
    stream = io.StringIO()
    recorder = ConsoleRecorder(["train/nll", "eval/nll"], stream)
    recorder.log(1, {"train/nll": 2.345678, "other": 1.0})
    recorder.log(2, {"other": 1.0})
    recorder.log(3, {"eval/nll": 1.5})
    rows = [line.split() for line in stream.getvalue().splitlines()]
    assert rows == [["step", "train/nll", "eval/nll"], ["1", "2.3457", "-"], ["3", "-", "1.5"]]


# ------------------------------------------------------------------------------------- W&B


def test_wandb_gets_every_row_and_a_resumed_run_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip('wandb is not installed: pip install "tinsmith[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for step in (1, 2):
        recorder = WandbRecorder.start(tmp_path, project="p", name=None, config={"seed": 1})
        recorder.log(step, {"train/nll": 2.0})
        ids.append((tmp_path / "wandb_run_id.txt").read_text())
        recorder.close()
        recorder.close()
    assert ids[0] == ids[1]
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def stand_in(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    """A `wandb` that fails where a test wants it to; the real one fails by the network."""
    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_a_wandb_that_cannot_start_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no network")

    stand_in(monkeypatch, init)
    recorder = WandbRecorder.start(tmp_path, project=None, name=None, config={})
    recorder.log(1, {"a": 1.0})
    recorder.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "could not start and is left out from here on: no network" in caplog.text


def test_a_wandb_that_fails_later_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[Any] = []

    def log(row: Any) -> None:
        logged.append(row)
        if len(logged) == 2:
            raise OSError("disk full")

    run = SimpleNamespace(id="abc", log=log, finish=lambda: None)
    stand_in(monkeypatch, lambda **_: run)
    recorder = WandbRecorder.start(tmp_path, project=None, name=None, config={})
    for step in range(1, 5):
        recorder.log(step, {"a": 1.0})
    recorder.close()
    assert [row["step"] for row in logged] == [1, 2]
    assert caplog.text.count("could not log") == 1


def test_a_missing_wandb_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinsmith\[wandb\]"'):
        WandbRecorder.start(tmp_path, project=None, name=None, config={})


def test_columns_that_end_alike_are_named_in_full() -> None:
    stream = io.StringIO()
    console = ConsoleRecorder(["train/nll", "eval/nll", "optim/learning_rate"], stream)
    console.log(1, {"train/nll": 2.0})
    assert stream.getvalue().splitlines()[0].split() == [
        "step",
        "train/nll",
        "eval/nll",
        "learning_rate",
    ]


def test_a_trace_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    TraceWriter(path).complete("first", 0, 1)
    with path.open("a") as file:
        file.write('{"name": "cut o')
    TraceWriter(path).complete("second", 1, 2)
    assert [event["name"] for event in read_trace(path)] == ["first", "second"]
