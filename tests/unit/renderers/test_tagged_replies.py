"""What a reply of tags is read as: thinking, text, calls, and what was cut off or malformed."""

import json
from typing import Any

import pytest

from tests.unit.renderers.families import standin
from tinsmith.renderers import (
    Message,
    ParseTermination,
    RendererError,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    get_renderer,
)

VOCABULARY = {"qwen3_5": "qwen3_5", "qwen3_6": "qwen3_5", "llama3_1": "llama3"}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
XML = "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"


def parse(name: str, text: str) -> tuple[Message, ParseTermination]:
    tokenizer = standin(VOCABULARY.get(name, "qwen2-qwen3"))
    renderer = get_renderer(name, tokenizer)
    return renderer.parse_response(tokenizer.encode(text, add_special_tokens=False))


def thought(thinking: str, text: str = "") -> list[dict[str, Any]]:
    spoken = [{"type": "text", "text": text}] if text else []
    return [{"type": "thinking", "thinking": thinking}, *spoken]


@pytest.mark.parametrize(
    ("name", "text", "content"),
    [
        ("qwen3", "<think>\nR\n</think>\n\nA", thought("R", "A")),
        ("qwen3", "<think>R</think>A", thought("R", "A")),
        ("qwen3", "\n<think>\n\nR\nS\n\n</think>A", thought("R\nS", "A")),
        ("qwen3", "<think>\n\n</think>\n\nA", "A"),
        ("qwen3", "A <think> is a tag", "A <think> is a tag"),
        ("qwen3", "R</think>A", "R</think>A"),
        ("qwen3", "", ""),
        ("qwen3", " A\n", " A\n"),
        ("qwen3_instruct", "<think>R</think>A", "<think>R</think>A"),
        ("qwen3_thinking", "R\n</think>\n\nA", thought("R", "A")),
        ("qwen3_5", "R\n</think>\n\nA", thought("R", "A")),
        ("qwen3_5_disable_thinking", "A", "A"),
        ("qwen3_coder", "<think>", "<think>"),
    ],
)
def test_thinking_and_text(name: str, text: str, content: Any) -> None:
    VOCABULARY.setdefault("qwen3_5_disable_thinking", "qwen3_5")
    message, termination = parse(name, text + "<|im_end|>")
    assert message["content"] == content
    assert termination is ParseTermination.STOP_SEQUENCE


def test_what_was_cut_off_inside_thinking_is_thinking() -> None:
    message, termination = parse("qwen3", "<think>\nFirst,")
    assert message["content"] == thought("First,")
    assert termination is ParseTermination.MALFORMED
    message, termination = parse("qwen3_thinking", "A<|im_end|>")
    assert message["content"] == thought("A")


@pytest.mark.parametrize(
    ("name", "text", "content", "arguments"),
    [
        ("qwen3", CALL, "", [{"x": 1}]),
        ("qwen3", f"Let me look.\n{CALL}", "Let me look.", [{"x": 1}]),
        ("qwen3", f"{CALL}\n{CALL}", "", [{"x": 1}, {"x": 1}]),
        ("qwen3", f"{CALL}\nDone.", "\nDone.", [{"x": 1}]),
        ("qwen3_coder", f"Let me look.\n\n{XML}\n{XML}", "Let me look.", [{"x": 1}, {"x": 1}]),
        ("qwen3_5", f"R\n</think>\n\nA\n\n{XML}", thought("R", "A"), [{"x": 1}]),
        ("llama3_1", '{"name": "f", "parameters": {"x": 1}}', "", [{"x": 1}]),
    ],
)
def test_calls(name: str, text: str, content: Any, arguments: list[Any]) -> None:
    end = "<|eot_id|>" if name == "llama3_1" else "<|im_end|>"
    message, _ = parse(name, text + end)
    assert message["content"] == content
    calls = message["tool_calls"] or []
    assert [call["function"]["name"] for call in calls] == ["f"] * len(arguments)
    assert [json.loads(str(call["function"]["arguments"])) for call in calls] == arguments


@pytest.mark.parametrize(
    ("value", "read"),
    [("1", 1), ("text", "text"), ("True", True), ("null", None), ('{"a": []}', {"a": []}),
     ("two\nlines", "two\nlines"), ("", ""), ("007", "007")],
)  # fmt: skip
def test_values_between_tags_get_their_types_back(value: str, read: Any) -> None:
    text = XML.replace("\n1\n", f"\n{value}\n")
    message, _ = parse("qwen3_coder", text + "<|im_end|>")
    [call] = message["tool_calls"] or []
    assert json.loads(str(call["function"]["arguments"])) == {"x": read}


@pytest.mark.parametrize(
    ("name", "raw", "error"),
    [
        ("qwen3", "<tool_call>\n{oops\n</tool_call>", "not JSON"),
        ("qwen3", '<tool_call>\n{"arguments": {}}\n</tool_call>', "no function name"),
        ("qwen3", '<tool_call>{"name": "f", "arguments": 3}</tool_call>', "arguments is no object"),
        ("qwen3", "<tool_call>\n[1]\n</tool_call>", "no function name"),
        ("qwen3", '<tool_call>\n{"name": "f"', "not closed: </tool_call> is missing"),
        ("qwen3_coder", "<tool_call>\nf(1)\n</tool_call>", "no function"),
        ("qwen3_coder", "<tool_call><function=f>x</function></tool_call>", "not a parameter: 'x'"),
    ],
)
def test_a_malformed_call_is_reported_whole(name: str, raw: str, error: str) -> None:
    message, _ = parse(name, f"Look.{raw}<|im_end|>")
    assert message["content"] == "Look."
    [unparsed] = message["unparsed_tool_calls"] or []
    assert unparsed["raw_text"] == raw
    assert error in unparsed["error"]
    assert not message.get("tool_calls")


def test_json_that_is_no_call_is_text() -> None:
    for text in ('{"answer": 42}', "{not json", '{"name": "Ann"}'):
        message, _ = parse("llama3_1", text + "<|eot_id|>")
        assert message["content"] == text
    raw = '{"name": "f", "parameters": {'
    message, _ = parse("llama3_1", raw + "<|eot_id|>")
    [unparsed] = message["unparsed_tool_calls"] or []
    assert unparsed["raw_text"] == raw


def test_a_stream_tells_each_kind_as_it_comes() -> None:
    tokenizer = standin("qwen2-qwen3")
    renderer = get_renderer("qwen3", tokenizer)
    text = f"<think>\nHm 🥳.\n</think>\n\nYes.\n{CALL}<|im_end|>"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    *deltas, _ = renderer.stream_parse(iter(tokens))
    kinds = [type(delta) for delta in deltas]
    assert kinds[0] is ThinkingDelta
    assert kinds[-1] is ToolCallDelta
    assert kinds.index(TextDelta) > kinds.index(ThinkingDelta)
    assert "".join(d.thinking for d in deltas if isinstance(d, ThinkingDelta)) == "Hm 🥳."
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == "Yes."
    assert not any("\ufffd" in d.thinking for d in deltas if isinstance(d, ThinkingDelta))


def test_a_trained_thought_is_refused_where_the_prompt_closes_thinking() -> None:
    renderer = get_renderer("qwen3_disable_thinking", standin("qwen2-qwen3"))
    messages: list[Message] = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "R"}]},
    ]
    with pytest.raises(RendererError, match="message 1: the answer holds thinking"):
        renderer.build_supervised_example(messages)


def test_thinking_parts_equal_the_field_and_come_first() -> None:
    renderer = get_renderer("qwen3", standin("qwen2-qwen3"))
    question: Message = {"role": "user", "content": "Q"}
    parts: Message = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "A"}],
    }
    field: Message = {"role": "assistant", "content": "A", "reasoning_content": "R"}
    assert renderer.render_text([question, parts]) == renderer.render_text([question, field])
    late: Any = {**parts, "content": list(reversed(parts["content"] or []))}
    with pytest.raises(RendererError, match="a thinking part follows text"):
        renderer.render_text([question, late])


def test_kept_thinking_makes_history_grow_only() -> None:
    renderer = get_renderer("qwen3", standin("qwen2-qwen3"), keep_thinking=True)
    assert renderer.has_extension_property
    chat: list[Message] = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "reasoning_content": "R"},
    ]
    so_far = renderer.build_supervised_example(chat).model_input.to_ints()
    longer = renderer.build_generation_prompt([*chat, chat[0]]).to_ints()
    assert longer[: len(so_far)] == so_far
    assert len(renderer.build_supervised_examples([*chat, *chat])) == 1
    stripping = get_renderer("qwen3", standin("qwen2-qwen3"))
    first, second = stripping.build_supervised_examples([*chat, *chat])
    assert (
        first.model_input.to_ints()
        == stripping.build_supervised_example(chat).model_input.to_ints()
    )
    assert second.weights.sum() > 0


def test_a_prefill_begins_the_reply() -> None:
    tokenizer = standin("qwen2-qwen3")
    renderer = get_renderer("qwen3_thinking", tokenizer)
    prompt = renderer.build_generation_prompt([{"role": "user", "content": "Q"}], prefill="Well")
    assert tokenizer.decode(prompt.to_ints()).endswith("<|im_start|>assistant\n<think>\nWell")
