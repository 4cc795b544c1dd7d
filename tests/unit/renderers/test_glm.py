"""What is special about GLM: turns without an end, thinking targets, calls between tags."""

from typing import Any

import pytest

from tests.unit.renderers.families import standin
from tests.unit.renderers.subject import Subject
from tinsmith.renderers import Message, ParseTermination, RendererError

QUESTION: Message = {"role": "user", "content": "Q"}
PLAIN: Message = {"role": "assistant", "content": "A"}
THOUGHT: Message = {**PLAIN, "reasoning_content": "R"}
SUBJECT = Subject("glm-4.5")
renderer, ids, trained_text = SUBJECT.renderer, SUBJECT.ids, SUBJECT.trained_text


@pytest.mark.parametrize(
    ("name", "answer", "trained"),
    [
        ("glm4_5", THOUGHT, "\n<think>R</think>\nA"),
        ("glm4_5", PLAIN, "\n<think></think>\nA"),
        ("glm4_5_disable_thinking", PLAIN, "\nA"),
        ("glm4_7", THOUGHT, "R</think>A"),
        ("glm4_7", PLAIN, "</think>A"),
        ("glm4_7_disable_thinking", PLAIN, "A"),
        ("glm5_1", THOUGHT, "R</think>A"),
        ("glm5_2", {**PLAIN, "content": "<think>R</think>A"}, "R</think>A"),
        ("glm5_2_disable_thinking", PLAIN, "A"),
    ],
)
def test_a_trained_answer_continues_its_prompt_and_names_the_next_speaker(
    name: str, answer: Message, trained: str
) -> None:
    assert trained_text(name, [QUESTION, answer]) == trained + "<|user|>"


def test_the_token_after_an_answer_in_the_middle_is_trained_with_it() -> None:
    messages = [QUESTION, PLAIN, QUESTION, PLAIN]
    trained = trained_text("glm4_7_disable_thinking", messages, "all_assistant_messages")
    assert trained == "A<|user|>A<|user|>"
    users = trained_text("glm4_7_disable_thinking", messages, "all_user_and_system_messages")
    assert users == "QQ"


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("glm4_5", "\n<think></think>\nA<|user|>\n<think>R</think>\nA<|user|>"),
        ("glm4_7", "A<|user|>R</think>A<|user|>"),
        ("glm5_1", "A<|user|>R</think>A<|user|>"),
        ("glm5_2", "</think>A<|user|>R</think>A<|user|>"),
    ],
)
def test_a_block_that_history_erases_is_trained_only_where_a_prompt_could_go_on_with_it(
    name: str, trained: str
) -> None:
    messages = [QUESTION, THOUGHT, QUESTION, THOUGHT]
    assert trained_text(name, messages, "all_assistant_messages") == trained


CALL: Message = {
    "role": "assistant",
    "content": "Sure.",
    "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": "x y"}}}],
}
RESULT: Message = {"role": "tool", "content": "2"}
ARGUMENTS = (
    "<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>b</arg_key><arg_value>x y</arg_value>"
)


def test_calls_end_with_the_observation_and_results_share_one() -> None:
    assert trained_text("glm4_7", [QUESTION, CALL]) == (
        f"</think>Sure.<tool_call>add{ARGUMENTS}</tool_call><|observation|>"
    )
    text = renderer("glm4_7").render_text(
        [QUESTION, CALL, RESULT, RESULT], add_generation_prompt=True
    )
    results = 2 * "<tool_response>2</tool_response>"
    assert text.endswith(f"</tool_call><|observation|>{results}<|assistant|><think>")
    turn = trained_text("glm4_7", [QUESTION, CALL, RESULT, PLAIN], "last_assistant_turn")
    assert turn.count("<|observation|>") == 1


def test_calls_of_4_5_stand_on_lines() -> None:
    lines = ARGUMENTS.replace("><", ">\n<")
    assert trained_text("glm4_5", [QUESTION, CALL]) == (
        f"\n<think></think>\nSure.\n<tool_call>add\n{lines}\n</tool_call><|observation|>"
    )


def test_a_user_turns_thinking_off_once_with_a_token() -> None:
    off = renderer("glm4_5_disable_thinking")
    nothink = ids("/nothink")[0]
    for text in ("Q", "Q/nothink"):
        prompt = off.build_generation_prompt([{"role": "user", "content": text}]).to_ints()
        assert standin("glm-4.5").decode(prompt) == (
            "[gMASK]<sop><|user|>\nQ/nothink<|assistant|>\n<think></think>"
        )
        assert prompt.count(nothink) == 1


def test_thinking_off_refuses_thought_targets() -> None:
    for name in ("glm4_5", "glm4_7", "glm5_1", "glm5_2"):
        with pytest.raises(RendererError, match="closes the think block"):
            renderer(f"{name}_disable_thinking").build_supervised_example([QUESTION, THOUGHT])


def test_history_has_its_thinking_only_where_it_is_kept() -> None:
    messages = [QUESTION, THOUGHT, QUESTION]
    shown = {
        name: renderer(name).render_text(messages, add_generation_prompt=True)
        for name in ("glm4_7", "glm5_2", "glm4_7_preserve_thinking", "glm5_2_preserve_thinking")
    }
    end = "<|user|>Q<|assistant|><think>"
    start = "[gMASK]<sop>"
    effort = "<|system|>Reasoning Effort: Max"
    assert shown == {
        "glm4_7": f"{start}<|user|>Q<|assistant|></think>A{end}",
        "glm5_2": f"{start}{effort}<|user|>Q<|assistant|><think></think>A{end}",
        "glm4_7_preserve_thinking": f"{start}<|user|>Q<|assistant|><think>R</think>A{end}",
        "glm5_2_preserve_thinking": f"{start}{effort}<|user|>Q<|assistant|><think>R</think>A{end}",
    }


def test_an_argument_is_read_as_json_where_it_is_json() -> None:
    values = {"i": "1", "t": "x y", "l": '["a", 2]', "b": "true", "n": "null", "broken": "{a"}
    pairs = "\n".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>" for key, value in values.items()
    )
    reply = f"R</think>Hm.<tool_call>add\n{pairs}\n</tool_call><tool_call>go</tool_call>"
    message, termination = renderer("glm5_1").parse_response(ids(reply + "<|observation|>"))
    assert termination is ParseTermination.STOP_SEQUENCE
    assert message["content"] == [
        {"type": "thinking", "thinking": "R"},
        {"type": "text", "text": "Hm."},
    ]
    assert [call["function"] for call in message["tool_calls"]] == [
        {
            "name": "add",
            "arguments": '{"i": 1, "t": "x y", "l": ["a", 2], "b": true, "n": null, '
            '"broken": "{a"}',
        },
        {"name": "go", "arguments": "{}"},
    ]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "a call is NAME"),
        ("<arg_key>a</arg_key>", "a call is NAME"),
        ("add<arg_key>a</arg_key>", "not an argument: '<arg_key>a</arg_key>'"),
        ("add<arg_key>a</arg_key><arg_value>1</arg_value>x", "not an argument: 'x'"),
    ],
)
def test_broken_calls_are_reported(body: str, error: str) -> None:
    reply = f"A<tool_call>{body}</tool_call><|user|>"
    message, _ = renderer("glm4_7_disable_thinking").parse_response(ids(reply))
    [broken] = message["unparsed_tool_calls"]
    assert broken["raw_text"] == f"<tool_call>{body}</tool_call>"
    assert error in broken["error"]


@pytest.mark.parametrize("num_ends", [0, 1, 2])
@pytest.mark.parametrize("end", ["<|user|>", "<|observation|>", "<|endoftext|>"])
@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("glm4_5", "\n<think>R</think>\nA"),
        ("glm4_5_disable_thinking", "\nA"),
        ("glm4_7", "R</think>A"),
        ("glm5_2", "<think>R</think>A"),
        ("glm5_1_disable_thinking", "A"),
    ],
)
def test_replies_end_cleanly_cut_off_or_not_at_all(
    name: str, reply: str, end: str, num_ends: int
) -> None:
    tokens = ids(reply + end * num_ends)
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


def test_tools_of_5_lose_their_wrapping() -> None:
    function = {"name": "add", "strict": True, "parameters": {"type": "object"}}
    late = {"name": "late", "defer_loading": True}
    tools: Any = [{"type": "function", "function": f} for f in (function, late)]
    text = renderer("glm5_1").render_text([QUESTION], tools=tools)
    assert '<tools>\n{"name": "add", "parameters": {"type": "object"}}\n</tools>' in text
    wrapped = renderer("glm4_7").render_text([QUESTION], tools=tools[:1])
    assert '<tools>\n{"type": "function", "function": {"name": "add", "strict": true' in wrapped
