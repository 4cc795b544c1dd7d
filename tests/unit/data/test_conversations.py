"""Conversation files: what is refused and where, the split, and the orders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets import asset
from tests.unit.data.conftest import WriteLines, chat
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.data import ConversationFile, epoch_order, read_conversations

GOOD = chat("Is it?")
USER = {"role": "user", "content": "Hi"}


def call(tool_call: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [tool_call]}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('{"messages": [', "not JSON: Expecting value at column 15"),
        ("hello", "not JSON: Expecting value at column 1"),
        pytest.param("[" * 100_000, "not readable as JSON", id="nested too deeply"),
        pytest.param("1" * 5_000, "not readable as JSON", id="number too long"),
        (
            '{"messages": [{"role": "assistant", "content": "\\ud800"}]}',
            "messages[0].content holds \\ud800, half a character",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "\\ud800"}]}]}',
            "messages[0].content[0].text holds \\ud800, half a character",
        ),
        ("[1]", "the line is a JSON list, not an object"),
        ({"text": "x"}, "messages is missing (keys here: text)"),
        ({"messages": "x"}, "messages is a JSON string, not a list"),
        ({"messages": []}, "messages is empty"),
        ({"messages": ["x"]}, "messages[0] is a JSON string, not an object"),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role is missing"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content is missing"),
        ({"messages": [{"role": "assitant", "content": ""}]}, "messages[0].role='assitant'"),
        ({"messages": [{"role": 7, "content": ""}]}, "messages[0].role=7"),
        ({"messages": [{"role": "function", "content": ""}]}, "messages[0].role='function'"),
        ({"messages": [{"role": "user", "content": None}]}, "content is a JSON null, not text"),
        ({"messages": [{"role": "user", "content": 5}]}, "content is a JSON number, not text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages[0].content[0] has type='video'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url is missing",
        ),
        ({"messages": [USER]}, "no message has the role assistant"),
        ({**GOOD, "functions": [{"name": "f"}]}, "functions is set, and was replaced by tools"),
        ({**GOOD, "tools": {"name": "f"}}, "tools is a JSON object, not a list"),
        ({**GOOD, "tools": "[{"}, "tools is not JSON"),
        ({**GOOD, "tools": [{"function": {}}]}, "tools[0] has no function with a name"),
        ({"messages": [call({"name": "f"})]}, "tool_calls[0] has no function with a name"),
        (
            {"messages": [call({"function": {"name": "f"}})]},
            "tool_calls[0].function.arguments is a JSON null, not an object",
        ),
        (
            {"messages": [call({"function": {"name": "f", "arguments": "{"}})]},
            "tool_calls[0].function.arguments is not JSON",
        ),
        (
            {"messages": [{"role": "user", "content": "", "tool_calls": [{}]}]},
            "messages[0].tool_calls is set, and only the assistant calls tools",
        ),
        ({"messages": [{**USER, "function_call": {"name": "f"}}]}, "function_call is set"),
        (
            {"messages": [call({"type": "code", "function": {"name": "f", "arguments": {}}})]},
            "tool_calls[0].type='code': must be function",
        ),
        (
            {"messages": [call({"id": 5, "function": {"name": "f", "arguments": {}}})]},
            "tool_calls[0].id is a JSON number, not text",
        ),
        (
            {"messages": [call({"function": {"name": "\udfff", "arguments": {}}})]},
            "tool_calls[0].function.name holds \\udfff, half a character",
        ),
        (
            {"messages": [call({"function": {"name": "f", "arguments": '{"a": "\\udfff"}'}})]},
            "tool_calls[0].function.arguments.a holds \\udfff, half a character",
        ),
        (
            {**GOOD, "tools": '[{"function": {"name": "f", "\\udfff": 1}}]'},
            "tools[0].function holds \\udfff, half a character",
        ),
        ({"messages": [{**USER, "name": 5}]}, "messages[0].name is a JSON number, not text"),
        (
            {"messages": [{"role": "tool", "tool_call_id": 5, "content": ""}]},
            "messages[0].tool_call_id is a JSON number, not text",
        ),
        (
            {"messages": [{**USER, "reasoning": ["x"]}]},
            "messages[0].reasoning is a JSON list, not text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": ["text"], "text": "x"}]}]},
            "messages[0].content[0] has type=['text']",
        ),
        ({"messages": [{**USER, "weight": 2}]}, "messages[0].weight=2"),
        ({"messages": [{**USER, "weight": True}]}, "messages[0].weight=True"),
        ({"messages": [{**USER, "trainable": "yes"}]}, "messages[0].trainable='yes'"),
    ],
)
def test_a_bad_line_is_named_with_its_problem_and_a_cure(
    write_lines: WriteLines, row: Any, what: str
) -> None:
    path = write_lines([GOOD, "", row, GOOD])
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    error = caught.value
    assert (error.file, error.line, error.field) == (str(path), 3, "data")
    assert str(error).startswith(f"{path}:3: ")
    assert what in error.message
    assert error.hint
    assert "\n" not in str(error)


def test_a_misspelt_role_gets_the_nearest(write_lines: WriteLines) -> None:
    path = write_lines([{"messages": [{"role": "Assistant", "content": "x"}]}])
    with pytest.raises(DataError, match="did you mean 'assistant'"):
        read_conversations(path)


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_a_file_without_conversations_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no conversation") as caught:
        read_conversations(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: does not exist; check the path"):
        read_conversations(tmp_path / "none.jsonl")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        read_conversations(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "line", "byte"), [("latin-1", 2, "0xe9"), ("utf-16", 1, "0xff")]
)
def test_another_encoding_is_named_with_its_line(
    tmp_path: Path, encoding: str, line: int, byte: str
) -> None:
    path = tmp_path / "data.jsonl"
    rows = [json.dumps(chat(text), ensure_ascii=False) for text in ("plain", "café")]
    path.write_bytes("\n".join(rows).encode(encoding))
    with pytest.raises(DataError, match=f"byte {byte} is not UTF-8; save the file") as caught:
        read_conversations(path)
    assert caught.value.line == line


def test_crlf_blank_lines_bom_and_line_separators_inside_text_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = '{"messages": [{"role": "assistant", "content": "a\u2028b"}]}'
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\r\n{row}".encode())
    read = read_conversations(path)
    assert [c.line for c in read] == [1, 3]
    assert read[0].messages[0]["content"] == "a\u2028b"


def test_an_answer_may_be_missing_where_it_is_not_needed(write_lines: WriteLines) -> None:
    path = write_lines([{"messages": [USER]}])
    assert len(read_conversations(path, require_assistant=False)) == 1


def test_real_files_load() -> None:
    for name, count in (("conversations.jsonl", 128), ("fastchat_dummy_conversations.jsonl", 500)):
        assert len(read_conversations(asset("data", name))) == count


@given(
    num_rows=st.integers(2, 30),
    data=st.data(),
    seed=st.integers(0, 2**31),
)
def test_the_split_is_numpys_permutation_and_never_overlaps(
    tmp_path_factory: pytest.TempPathFactory, num_rows: int, data: st.DataObject, seed: int
) -> None:
    num_test = data.draw(st.integers(0, num_rows - 1))
    path = tmp_path_factory.mktemp("split") / "data.jsonl"
    path.write_text("".join(json.dumps(chat(f"Q{i}")) + "\n" for i in range(num_rows)))
    file = ConversationFile.load(path, test_size=num_test, seed=seed)
    held_out = set(np.random.default_rng(seed).permutation(num_rows)[:num_test].tolist())
    assert [c.line - 1 for c in file.test] == sorted(held_out)
    assert [c.line - 1 for c in file.train] == sorted(set(range(num_rows)) - held_out)


def test_a_fraction_holds_out_that_part(write_lines: WriteLines) -> None:
    path = write_lines([chat(f"Q{i}") for i in range(20)])
    file = ConversationFile.load(path, test_size=0.25)
    assert (len(file.train), len(file.test)) == (15, 5)


@pytest.mark.parametrize("test_size", [3, 4, -1, 1.5])
def test_a_split_that_leaves_nothing_or_is_no_count_is_refused(
    write_lines: WriteLines, test_size: float
) -> None:
    path = write_lines([chat(f"Q{i}") for i in range(3)])
    with pytest.raises(ConfigError, match=f"test_size={test_size}: ") as caught:
        ConversationFile.load(path, test_size=test_size)
    assert caught.value.field == "test_size"


def test_a_training_conversation_that_is_also_held_out_is_left_out_and_counted(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines([chat(f"Q{i % 4}") for i in range(12)])
    file = ConversationFile.load(path, test_size=1, seed=5)
    held_out = file.test[0].messages
    assert len(file.train) == 9
    assert file.num_duplicates_dropped == 2
    assert all(c.messages != held_out for c in file.train)
    assert "2 training conversations equal a held-out one" in caplog.text


def test_a_file_of_one_conversation_cannot_be_split(write_lines: WriteLines) -> None:
    path = write_lines([GOOD, GOOD, GOOD])
    with pytest.raises(ConfigError, match="are also held out"):
        ConversationFile.load(path, test_size=1)


def test_every_epoch_has_its_own_order_and_no_epoch_loses_a_row(write_lines: WriteLines) -> None:
    file = ConversationFile.load(write_lines([chat(f"Q{i}") for i in range(50)]), seed=3)
    orders = [file.epoch_order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == np.random.default_rng(4).permutation(50).tolist()
    assert orders[1] == epoch_order(50, seed=3, epoch=1).tolist()


def test_calls_results_and_tools_are_kept_as_they_are(write_lines: WriteLines) -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    row = {
        "messages": [
            USER,
            call({"id": "1", "type": "function", "function": function}),
            {"role": "tool", "tool_call_id": "1", "content": "3"},
            {"role": "assistant", "content": "Three.", "weight": 0},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
    }
    found = read_conversations(write_lines([row, {**row, "tools": json.dumps(row["tools"])}]))
    assert list(found[0].messages) == row["messages"]
    assert list(found[0].tools) == row["tools"] == list(found[1].tools)


def test_repeats_are_left_out_where_asked_for_and_counted(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines([chat(f"Q{i % 4}") for i in range(12)])
    assert len(ConversationFile.load(path).train) == 12
    file = ConversationFile.load(path, test_size=1, deduplicate=True)
    assert (len(file.train), len(file.test), file.num_repeats_dropped) == (3, 1, 8)
    assert "8 conversations repeat another and are left out" in caplog.text


def test_weights_do_not_make_a_repeat_another_conversation(write_lines: WriteLines) -> None:
    weighed = chat("Q0")
    weighed["messages"][1]["weight"] = 0
    path = write_lines([chat("Q0"), weighed, {**chat("Q0"), "tools": [{"name": "f"}]}])
    file = ConversationFile.load(path, deduplicate=True)
    assert [c.line for c in file.train] == [1, 3]


# numpy.random.default_rng(seed).permutation(10), recorded from an independent PCG64.
@pytest.mark.parametrize(
    ("seed", "order"),
    [
        (0, [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]),
        (1, [8, 4, 7, 0, 1, 2, 5, 9, 6, 3]),
        (42, [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]),
    ],
)
def test_orders_are_those_of_pcg64(seed: int, order: list[int]) -> None:
    assert epoch_order(10, seed, epoch=0).tolist() == order


@pytest.mark.parametrize(
    ("seed", "first"),
    [(0, 11749869230777074271), (1, 9441442522235856127), (42, 14276969152011380360)],
)
def test_the_generator_is_pcg64_to_the_bit(seed: int, first: int) -> None:
    assert np.random.default_rng(seed).bit_generator.random_raw() == first


def test_the_first_rows_of_an_epoch_are_those_of_datasets(write_lines: WriteLines) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    file = ConversationFile.load(write_lines([chat(f"Q{i}") for i in range(200)]), seed=7)
    table = datasets.Dataset.from_list([{"place": place} for place in range(200)])
    for epoch in range(3):
        shuffled = table.shuffle(seed=7 + epoch)["place"][:]
        assert file.epoch_order(epoch).tolist() == list(shuffled)
