"""What is special about Nemotron 3: blocks in every answer, thinking targets, efforts, calls."""

from typing import Any

import pytest

from tests.unit.renderers.subject import Subject
from tinsmith.renderers import Message, ParseTermination, RendererError

QUESTION: Message = {"role": "user", "content": "Q"}
PLAIN: Message = {"role": "assistant", "content": "A"}
THOUGHT: Message = {**PLAIN, "reasoning_content": "R"}
SYSTEM = "<|im_start|>system\n<|im_end|>\n"
ASKED = "<|im_start|>user\nQ<|im_end|>\n"
OPENED = "<|im_start|>assistant\n"
SUBJECT = Subject("nemotron3")
renderer, ids, trained_text = SUBJECT.renderer, SUBJECT.ids, SUBJECT.trained_text


@pytest.mark.parametrize(
    ("name", "answer", "trained"),
    [
        ("nemotron3", THOUGHT, "R\n</think>\nA"),
        ("nemotron3", {**PLAIN, "reasoning_content": "\n\nR\n"}, "R\n</think>\nA"),
        ("nemotron3", {**PLAIN, "content": "<think>\nR\n</think>\nA"}, "R\n</think>\nA"),
        ("nemotron3", PLAIN, "</think>\nA"),
        ("nemotron3_disable_thinking", PLAIN, "A"),
        ("nemotron3_ultra", THOUGHT, "R</think>A"),
        ("nemotron3_ultra", PLAIN, "</think>A"),
        ("nemotron3_ultra_disable_thinking", PLAIN, "A"),
    ],
)
def test_a_trained_answer_continues_its_prompt(name: str, answer: Message, trained: str) -> None:
    assert trained_text(name, [QUESTION, answer]) == trained + "<|im_end|>"


def test_without_thinking_the_template_has_a_closed_block_that_is_never_trained() -> None:
    messages = [QUESTION, PLAIN, QUESTION, THOUGHT]
    text = renderer("nemotron3").render_text(messages)
    closed = f"{OPENED}<think></think>A<|im_end|>\n"
    assert text == (f"{SYSTEM}{ASKED}{closed}{ASKED}{OPENED}<think>\nR\n</think>\nA<|im_end|>\n")
    trained = trained_text("nemotron3", messages, "all_assistant_messages")
    assert trained == "A<|im_end|>R\n</think>\nA<|im_end|>"


def test_history_has_its_thinking_only_where_it_is_kept() -> None:
    messages = [QUESTION, THOUGHT, QUESTION]
    for name, line in (("nemotron3", "\n"), ("nemotron3_ultra", "")):
        erased = renderer(name).render_text(messages, add_generation_prompt=True)
        assert erased == (
            f"{SYSTEM}{ASKED}{OPENED}<think></think>{line}A<|im_end|>\n{ASKED}{OPENED}<think>\n"
        )
        kept = renderer(f"{name}_preserve_thinking").render_text(messages)
        block = f"<think>\nR{line}</think>{line}"
        assert kept == f"{SYSTEM}{ASKED}{OPENED}{block}A<|im_end|>\n{ASKED}"


@pytest.mark.parametrize(
    ("name", "effort"),
    [("nemotron3_low_thinking", "low"), ("nemotron3_ultra_medium_thinking", "efficient")],
)
def test_an_effort_is_noted_in_the_last_question_and_not_trained(name: str, effort: str) -> None:
    text = renderer(name).render_text([QUESTION, PLAIN, QUESTION])
    note = f"\n\n{{reasoning effort: {effort}}}"
    assert text.count(note) == 1
    assert text.endswith(f"Q{note}<|im_end|>\n")
    users = trained_text(name, [QUESTION], "all_user_and_system_messages")
    assert users == "Q<|im_end|>"


def test_thinking_off_refuses_thought_targets() -> None:
    for name in ("nemotron3", "nemotron3_ultra"):
        with pytest.raises(RendererError, match="closes the think block"):
            renderer(f"{name}_disable_thinking").build_supervised_example([QUESTION, THOUGHT])


def test_tags_in_text_are_letters_unless_they_frame_thinking() -> None:
    thinks = ids("<think>")[0]
    asked: Message = {"role": "user", "content": "What is <think>?"}
    prompt = renderer("nemotron3").build_generation_prompt([asked]).to_ints()
    assert prompt.count(thinks) == 1
    spelled = renderer("nemotron3", special_text="control").build_generation_prompt([asked])
    assert spelled.to_ints().count(thinks) == 2


CALL: Message = {
    "role": "assistant",
    "content": "Sure.",
    "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": [True]}}}],
}
CALL_TEXT = (
    "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n[true]\n"
    "</parameter>\n</function>\n</tool_call>\n"
)


def test_a_call_ends_with_a_line_break_and_results_share_a_turn() -> None:
    assert trained_text("nemotron3", [QUESTION, CALL]) == (
        f"</think>\nSure.\n{CALL_TEXT}<|im_end|>"
    )
    result: Message = {"role": "tool", "content": "2"}
    text = renderer("nemotron3").render_text([QUESTION, CALL, result, result])
    results = 2 * "<tool_response>\n2\n</tool_response>\n"
    assert text.endswith(f"{CALL_TEXT}<|im_end|>\n<|im_start|>user\n{results}<|im_end|>\n")


def test_calls_are_read_and_broken_ones_are_reported() -> None:
    reply = f"R</think>\nSure.\n{CALL_TEXT}<tool_call>\nadd(1)\n</tool_call>\n<|im_end|>"
    message, termination = renderer("nemotron3").parse_response(ids(reply))
    assert termination is ParseTermination.STOP_SEQUENCE
    assert message["content"] == [
        {"type": "thinking", "thinking": "R"},
        {"type": "text", "text": "Sure."},
    ]
    [call] = message["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1, "b": [true]}'}
    [broken] = message["unparsed_tool_calls"]
    assert "no function" in broken["error"]
    assert "add(1)" in broken["raw_text"]


def test_declared_tools_follow_the_system_text() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "string", "enum": ["x"], "minLength": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    tools: Any = [{"name": "add", "description": " Adds. ", "parameters": parameters}]
    system: Message = {"role": "system", "content": "S"}
    text = renderer("nemotron3").render_text([system, QUESTION], tools=tools)
    assert text.startswith(
        "<|im_start|>system\nS\n\n# Tools\n\nYou have access to the following functions:\n\n"
        "<tools>\n<function>\n<name>add</name>\n<description>Adds.</description>\n<parameters>\n"
        '<parameter>\n<name>a</name>\n<type>string</type>\n<enum>["x"]</enum>\n'
        "<minLength>1</minLength>\n</parameter>\n"
        "<additionalProperties>False</additionalProperties>\n"
        '<required>["a"]</required>\n</parameters>\n</function>\n</tools>\n\nIf you choose'
    )
    prompt = renderer("nemotron3").build_generation_prompt([QUESTION], tools=tools).to_ints()
    assert ids("<tool_call>")[0] in prompt


@pytest.mark.parametrize("num_ends", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("nemotron3", "R\n</think>\nA"),
        ("nemotron3", "<think>\nR\n</think>\nA"),
        ("nemotron3", "</think>\nA"),
        ("nemotron3_ultra", "R</think>A"),
        ("nemotron3_disable_thinking", "A"),
        ("nemotron3_ultra_disable_thinking", "A"),
    ],
)
def test_replies_end_cleanly_cut_off_or_not_at_all(name: str, reply: str, num_ends: int) -> None:
    tokens = ids(reply + "<|im_end|>" * num_ends)
    if num_ends == 2:
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            renderer(name).parse_response(tokens)
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            list(renderer(name).stream_parse(tokens))
        return
    message, termination = renderer(name).parse_response(tokens)
    thinking = [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "A"}]
    assert message["content"] == (thinking if "R" in reply else "A")
    assert termination.is_clean is bool(num_ends)
    assert list(renderer(name).stream_parse(tokens))[-1] == (message, termination)
