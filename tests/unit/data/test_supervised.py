"""Conversations that do not fit: refused, cut or left out, and always counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets import REPOSITORY
from tests.unit.data.conftest import WriteLines, chat
from tinsmith.core.errors import DataError
from tinsmith.data import Conversation, ExampleCounts, SupervisedDataset, read_conversations
from tinsmith.data import supervised as supervised_module
from tinsmith.data.supervised import ExampleFormat, TooLong
from tinsmith.renderers import (
    ChatMLRenderer,
    RoleColonRenderer,
    TrainOnWhat,
    get_renderer,
    get_tokenizer,
)

LONG = "word " * 200


def form(renderer: Any, max_length: int = 64, on_too_long: TooLong = "error") -> ExampleFormat:
    return ExampleFormat(renderer, TrainOnWhat.ALL_ASSISTANT_MESSAGES, max_length, on_too_long)


def test_a_long_conversation_is_named_with_its_length_and_the_cure(
    write_lines: WriteLines, chatml: ChatMLRenderer
) -> None:
    path = write_lines([chat("short"), chat("long", LONG)])
    conversations = read_conversations(path)
    length = chatml.build_supervised_example(conversations[1].messages).model_input.length
    with pytest.raises(DataError) as caught:
        SupervisedDataset.from_conversations(conversations, form(chatml))
    assert str(caught.value) == (
        f"{path}:2: the conversation has {length} tokens, more than max_length=64; "
        f"raise max_length to {length}, or set on_too_long to truncate or skip"
    )
    assert len(SupervisedDataset.from_conversations(conversations, form(chatml, length))) == 2


def test_the_cure_does_not_ask_for_more_than_the_model_takes(
    write_lines: WriteLines, chatml: ChatMLRenderer
) -> None:
    conversations = read_conversations(write_lines([chat("long", "word " * 3000)]))
    with pytest.raises(DataError) as caught:
        SupervisedDataset.from_conversations(conversations, form(chatml))
    hint = "set on_too_long to truncate or skip (the model takes at most 2048)"
    assert caught.value.hint == hint


def test_a_long_conversation_can_be_cut_and_the_loss_is_counted(
    write_lines: WriteLines, chatml: ChatMLRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    conversations = read_conversations(write_lines([chat("short"), chat("long", LONG)]))
    dataset = SupervisedDataset.from_conversations(conversations, form(chatml, 64, "truncate"))
    length = chatml.build_supervised_example(conversations[1].messages).model_input.length
    assert dataset.counts == ExampleCounts(
        num_offered=2, num_used=2, num_truncated=1, num_truncated_tokens=length - 64
    )
    assert dataset.build([1])[0].datum.model_input.length == 63
    assert (
        f"1 of 2 conversations are longer than max_length=64 and lose {length - 64}" in caplog.text
    )


def test_a_long_conversation_can_be_left_out(
    write_lines: WriteLines, chatml: ChatMLRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    conversations = read_conversations(write_lines([chat("long", LONG), chat("short")]))
    dataset = SupervisedDataset.from_conversations(conversations, form(chatml, 64, "skip"))
    assert dataset.counts == ExampleCounts(num_offered=2, num_used=1, num_too_long_skipped=1)
    assert [c.line for c in dataset.conversations] == [2]
    assert "1 of 2 conversations are longer than max_length=64 and are left out" in caplog.text


def test_a_cut_that_leaves_nothing_to_learn_leaves_the_conversation_out(
    write_lines: WriteLines, chatml: ChatMLRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    conversations = read_conversations(write_lines([chat(LONG, "Yes."), chat("short")]))
    dataset = SupervisedDataset.from_conversations(conversations, form(chatml, 64, "truncate"))
    assert dataset.counts == ExampleCounts(num_offered=2, num_used=1, num_without_loss_skipped=1)
    assert "1 of 2 conversations have no token to learn" in caplog.text


def test_a_conversation_with_nothing_to_learn_is_counted_though_it_is_short(
    write_lines: WriteLines, chatml: ChatMLRenderer
) -> None:
    silent = {"messages": [{"role": "assistant", "content": "A", "weight": 0}]}
    conversations = read_conversations(write_lines([silent, chat("Q")]))
    dataset = SupervisedDataset.from_conversations(conversations, form(chatml))
    assert dataset.counts == ExampleCounts(num_offered=2, num_used=1, num_without_loss_skipped=1)


def test_what_the_format_cannot_express_is_found_before_training(
    write_lines: WriteLines, chatml: ChatMLRenderer
) -> None:
    dialogue = chat("Write.", "Sure.\n\nUser: Hi")
    path = write_lines([chat("Q"), dialogue])
    conversations = read_conversations(path)
    assert len(SupervisedDataset.from_conversations(conversations, form(chatml))) == 2
    with pytest.raises(DataError, match=r":2: message 1: the assistant's text holds") as caught:
        SupervisedDataset.from_conversations(
            conversations, form(RoleColonRenderer(chatml.tokenizer))
        )
    assert caught.value.line == 2


def test_a_message_key_of_another_mode_is_found_before_training(
    write_lines: WriteLines, chatml: ChatMLRenderer
) -> None:
    row = {"messages": [{"role": "assistant", "content": "A", "trainable": True}]}
    conversations = read_conversations(write_lines([row]))
    with pytest.raises(DataError, match=r":1: message 0: trainable is set"):
        SupervisedDataset.from_conversations(conversations, form(chatml))


@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=3),
    max_length=st.integers(4, 120),
)
def test_the_short_cut_never_lets_a_long_conversation_through(
    chatml: ChatMLRenderer, texts: list[str], max_length: int
) -> None:
    messages = tuple({"role": "assistant", "content": text} for text in texts)
    conversation = Conversation(messages, "data.jsonl", 1)  # type: ignore[arg-type]
    shape = form(chatml, max_length)
    if supervised_module._surely_fits(conversation, shape):
        assert shape.build(conversation).num_truncated_tokens == 0


def test_an_image_is_named_with_its_line_since_training_takes_text_only(
    write_lines: WriteLines,
) -> None:
    # One white pixel.
    png = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mP8/x8A"
        "AwMCAO+ip1sAAAAASUVORK5CYII="
    )
    picture = {"type": "image_url", "image_url": {"url": png}}
    row = chat("What is it?")
    row["messages"][0]["content"] = [picture, {"type": "text", "text": "What is it?"}]
    path = write_lines([chat("Q"), row])
    tokenizer = get_tokenizer(str(REPOSITORY / "tests" / "golden" / "tokenizers" / "qwen3_5"))
    shape = form(get_renderer("qwen3_vl_instruct", tokenizer), 4096)
    conversations = read_conversations(path)
    assert shape.build(conversations[0]).num_loss_tokens
    with pytest.raises(DataError, match=r":2: the conversation holds image: training takes text"):
        SupervisedDataset.from_conversations(conversations, shape)


def test_thinking_that_the_history_leaves_out_is_counted_where_it_was_to_be_trained(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture
) -> None:
    def thinking(*thoughts: str) -> dict[str, Any]:
        turns = [
            [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A", "reasoning_content": thought},
            ]
            for thought in thoughts
        ]
        return {"messages": [message for turn in turns for message in turn]}

    rows = read_conversations(write_lines([thinking("R"), thinking("R", "S"), thinking("", "S")]))
    tokenizer = get_tokenizer(str(REPOSITORY / "tests" / "golden" / "tokenizers" / "qwen2-qwen3"))
    qwen3 = get_renderer("qwen3", tokenizer)
    found = SupervisedDataset.from_conversations(rows, form(qwen3, 512)).counts
    assert found.num_thinking_left_out == 1
    assert "1 of 3 conversations think in an earlier answer, which qwen3 leaves" in caplog.text
    last = ExampleFormat(qwen3, TrainOnWhat.LAST_ASSISTANT_TURN, 512)
    assert SupervisedDataset.from_conversations(rows, last).counts.num_thinking_left_out == 0
    kept = get_renderer("qwen3", tokenizer, keep_thinking=True)
    assert SupervisedDataset.from_conversations(rows, form(kept, 512)).counts == ExampleCounts(3, 3)
