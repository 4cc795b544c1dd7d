"""Rows on disk: JSON lines and Parquet read alike, from any thread, without filling memory."""

import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.conftest import chat
from tinsmith.core.errors import DataError
from tinsmith.data import read_conversations
from tinsmith.data.conversations import Conversation, conversation_parser
from tinsmith.data.rows import StoredRows, View, content_sha256, fingerprints

PARSE = conversation_parser(require_assistant=True)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    return path


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=8),
    blanks=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    has_bom=st.booleans(),
    ending=st.sampled_from([b"\n", b"\r\n"]),
)
def test_rows_come_back_with_their_lines_whatever_stands_between_them(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    blanks: list[int],
    has_bom: bool,
    ending: bytes,
) -> None:
    content, lines, number = b"\xef\xbb\xbf" if has_bom else b"", [], 0
    for text, blank in zip(texts, blanks, strict=False):
        content += ending * blank
        number += blank + 1
        content += json.dumps(chat(text), ensure_ascii=False).encode() + ending
        lines.append(number)
    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    path.write_bytes(content.removesuffix(ending))
    rows = read_conversations(path)
    assert [row.line for row in rows] == lines
    assert [row.messages[0]["content"] for row in rows] == texts
    assert rows[-1].messages[0]["content"] == texts[-1]


def test_a_table_reads_like_lines(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
    rows = [{**chat(f"Q{i}"), "tools": None, "source": f"s{i}"} for i in range(7)]
    rows[3]["messages"].insert(1, {"role": "assistant", "content": None, "tool_calls": [call]})
    rows[3]["tools"] = tools
    rows[5]["messages"][1]["weight"] = 0
    table = read_conversations(write_parquet(tmp_path / "data.parquet", rows))
    lines = tmp_path / "data.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = read_conversations(lines)
    assert [(c.messages, c.tools, c.line) for c in table] == [
        (c.messages, c.tools, c.line) for c in expected
    ]
    assert content_sha256(table) == content_sha256(expected)


def test_a_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    rows = [chat("Q"), {"messages": [{"role": "user", "content": "no answer"}]}]
    path = write_parquet(tmp_path / "data.parquet", rows)
    with pytest.raises(DataError, match=r"data\.parquet:2: no message has the role assistant"):
        read_conversations(path)


def test_a_table_without_messages_and_a_file_that_is_no_table_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data.parquet", [{"text": "x"}])
    with pytest.raises(DataError, match=r":1: messages is missing \(keys here: text\)"):
        read_conversations(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"data\.parquet: not a Parquet file"):
        read_conversations(path)


def test_threads_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(chat(f"Q{i}")) + "\n" for i in range(200)))
    rows = read_conversations(path)
    wrong: list[int] = []

    def read(step: int) -> None:
        for index in range(0, 200 * step, step):
            if rows[index % 200].messages[0]["content"] != f"Q{index % 200}":
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_open_file_is_read_to_the_end_though_another_takes_its_name(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(chat("old")) + "\n")
    rows = read_conversations(path)
    other = tmp_path / "other.jsonl"
    other.write_text("not JSON\n")
    other.replace(path)
    assert rows[0].messages[0]["content"] == "old"


def test_memory_holds_places_and_not_texts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    line = json.dumps(chat("word " * 2000)) + "\n"
    num_rows = 400
    path.write_text(line * num_rows)
    tracemalloc.start()
    rows = read_conversations(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == num_rows
    assert kept < 200 * num_rows
    assert peak < path.stat().st_size / 4


def test_a_view_of_a_view_knows_its_fingerprints() -> None:
    rows = StoredRows.spool([chat(f"Q{i}") for i in range(5)], "memory", PARSE)
    view = View(View(rows, [4, 2, 0]), [2, 0])
    assert [c.messages[0]["content"] for c in view] == ["Q0", "Q4"]
    assert fingerprints(view) == [rows[0].fingerprint(), rows[4].fingerprint()]
    assert [c.line for c in rows[1:3]] == [2, 3]


def test_rows_in_memory_have_the_fingerprints_of_rows_on_disk() -> None:
    stored = StoredRows.spool([chat("Q")], "memory", PARSE)
    loose = [Conversation(stored[0].messages, "elsewhere", 9)]
    assert content_sha256(loose) == content_sha256(stored)


def test_a_table_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data.parquet", [chat(f"Question {i}") for i in range(2000)])
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(byte ^ 0xFF for byte in content[100:3000])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.parquet: damaged after row 0: ") as caught:
        read_conversations(path)
    assert caught.value.hint
