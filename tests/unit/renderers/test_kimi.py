"""What is special about Kimi: thinking targets, ids of calls, declared tools, images."""

from typing import Any

import pytest

from tests.unit.renderers.families import standin
from tests.unit.renderers.subject import Subject
from tinsmith.renderers import Message, ParseTermination, RendererError
from tinsmith.renderers.kimi import RENDERERS
from tinsmith.renderers.pictures import PaddedGrid

QUESTION: Message = {"role": "user", "content": "Q"}
THOUGHT: Message = {"role": "assistant", "content": "A", "reasoning_content": "R"}
ASKED = "<|im_user|>user<|im_middle|>Q<|im_end|>"
OPENED = "<|im_assistant|>assistant<|im_middle|>"
SUBJECT = Subject("kimi-k2")
renderer, ids, trained_text = SUBJECT.renderer, SUBJECT.ids, SUBJECT.trained_text


@pytest.mark.parametrize(
    ("name", "opening"), [("kimi_k2", "<think>"), ("kimi_k25", ""), ("kimi_k26", "")]
)
@pytest.mark.parametrize(
    ("answer", "trained"),
    [
        ({"content": "A", "reasoning_content": "R"}, "R</think>A<|im_end|>"),
        ({"content": "<think>R</think>A"}, "R</think>A<|im_end|>"),
        ({"content": "A"}, "</think>A<|im_end|>"),
    ],
)
def test_a_trained_answer_has_the_thinking_that_the_template_erases(
    name: str, opening: str, answer: Any, trained: str
) -> None:
    messages: list[Message] = [QUESTION, {"role": "assistant", **answer}]
    assert trained_text(name, messages) == opening + trained
    assert "<think></think>" in renderer(name).render_text(messages)


def test_an_empty_block_of_history_is_never_trained() -> None:
    messages: list[Message] = [QUESTION, THOUGHT, QUESTION, THOUGHT]
    trained = trained_text("kimi_k2", messages, "all_assistant_messages")
    assert trained == "A<|im_end|><think>R</think>A<|im_end|>"


def call(name: str = "add", **more: Any) -> Message:
    function = {"name": name, "arguments": '{"a": 1}'}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function, **more}]}


def section(call_id: str, arguments: str = '{"a": 1}') -> str:
    return (
        f"<|tool_calls_section_begin|><|tool_call_begin|>{call_id}<|tool_call_argument_begin|>"
        f"{arguments}<|tool_call_end|><|tool_calls_section_end|>"
    )


def test_the_calls_before_a_trained_answer_keep_their_thinking_as_in_its_prompt() -> None:
    thinks: Message = {**call(), "reasoning_content": "T"}
    messages: list[Message] = [QUESTION, thinks, {"role": "tool", "content": "2"}, THOUGHT]
    example = renderer("kimi_k25").build_supervised_example(messages)
    text = standin("kimi-k2").decode(example.model_input.to_ints())
    assert f"<think>T</think>{section('functions.add:0')}" in text
    template = renderer("kimi_k25").render_text(messages)
    assert f"<think></think>{section('functions.add:0')}" in template


def test_calls_and_results_without_ids_are_numbered() -> None:
    messages: list[Message] = [
        *[QUESTION, call(), {"role": "tool", "content": "2", "name": "add"}],
        *[call(), call("mul", id="own")],
        *[{"role": "tool", "content": "3"}, {"role": "tool", "content": "4"}],
    ]
    text = renderer("kimi_k2_instruct").render_text(messages)
    start = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI."
    assert text == (
        f"{start}<|im_end|>{ASKED}{OPENED}{section('functions.add:0')}<|im_end|>"
        "<|im_system|>add<|im_middle|>## Return of functions.add:0\n2<|im_end|>"
        f"{OPENED}{section('functions.add:1')}<|im_end|>{OPENED}{section('own')}<|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.add:1\n3<|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of own\n4<|im_end|>"
    )


def test_a_result_of_nothing_is_refused() -> None:
    with pytest.raises(RendererError, match=r"message 1: .* answers no call"):
        renderer("kimi_k2").render_text([QUESTION, {"role": "tool", "content": "2"}])


def test_instruct_has_no_thinking() -> None:
    with pytest.raises(RendererError, match="kimi_k2_instruct has no thinking"):
        renderer("kimi_k2_instruct").render_text([QUESTION, THOUGHT])
    assert "think" not in renderer("kimi_k2_instruct").render_text(
        [QUESTION, {"role": "assistant", "content": "A"}, QUESTION], add_generation_prompt=True
    )


def test_thinking_off_closes_the_block_and_refuses_thought_targets() -> None:
    prompt = renderer("kimi_k25_disable_thinking").render_text(
        [QUESTION, THOUGHT, QUESTION], add_generation_prompt=True
    )
    closed = f"{OPENED}<think></think>"
    assert prompt == f"{ASKED}{closed}A<|im_end|>{ASKED}{closed}"
    with pytest.raises(RendererError, match="closes the think block"):
        renderer("kimi_k25_disable_thinking").build_supervised_example([QUESTION, THOUGHT])


def test_k26_is_k25_and_may_keep_all_thinking() -> None:
    for name in ("kimi_k26", "kimi_k26_disable_thinking"):
        options = [RENDERERS[n].keywords for n in (name, name.replace("6", "5"))]  # type: ignore[attr-defined]
        assert options[0] == options[1]
    text = renderer("kimi_k26_preserve_thinking").render_text(
        [QUESTION, THOUGHT, QUESTION], add_generation_prompt=True
    )
    assert text == (f"{ASKED}{OPENED}<think>R</think>A<|im_end|>{ASKED}{OPENED}<think>")


def test_calls_are_read_with_their_ids_and_broken_ones_are_reported() -> None:
    def one(call_id: str, arguments: str) -> str:
        return section(call_id, arguments).split("_section_begin|>")[1].split("<|tool_calls_s")[0]

    good, more = one("functions.f.g:3", '{"a": 1}'), one("h:4", "{}")
    bad = one("functions.f:5", "{a") + one("call_17", "{}")
    reply = f"Sure.<|tool_calls_section_begin|>{good}{more}{bad}<|tool_calls_section_end|>"
    message, termination = renderer("kimi_k2").parse_response(ids(reply + "<|im_end|>"))
    assert termination is ParseTermination.STOP_SEQUENCE
    assert message["content"] == "Sure."
    assert message["tool_calls"] == [
        {"type": "function", "id": "functions.f.g:3",
         "function": {"name": "f.g", "arguments": '{"a": 1}'}},
        {"type": "function", "id": "h:4", "function": {"name": "h", "arguments": "{}"}},
    ]  # fmt: skip
    no_json, no_name = message["unparsed_tool_calls"]
    assert "arguments are not JSON" in no_json["error"]
    assert "functions.NAME:INDEX is needed" in no_name["error"]


@pytest.mark.parametrize("num_ends", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "reply", "content"),
    [
        ("kimi_k2", "<think>R</think>A", ("R", "A")),
        ("kimi_k2", "A", "A"),
        ("kimi_k2", "R</think>A", "R</think>A"),
        ("kimi_k25", "R</think>A", ("R", "A")),
        ("kimi_k25", "<think>R</think>A", ("R", "A")),
        ("kimi_k25", "</think>A", "A"),
        ("kimi_k25_disable_thinking", "A", "A"),
        ("kimi_k2_instruct", "A", "A"),
    ],
)
def test_replies_end_cleanly_cut_off_or_not_at_all(
    name: str, reply: str, content: Any, num_ends: int
) -> None:
    tokens = ids(reply + "<|im_end|>" * num_ends)
    if num_ends == 2:
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            renderer(name).parse_response(tokens)
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            list(renderer(name).stream_parse(tokens))
        return
    message, termination = renderer(name).parse_response(tokens)
    if isinstance(content, tuple):
        thinking, text = content
        content = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": text}]
    assert message["content"] == content
    assert termination.is_clean is bool(num_ends)
    assert list(renderer(name).stream_parse(tokens))[-1] == (message, termination)


TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
]


def test_tools_are_declared_in_the_form_of_the_release() -> None:
    declared = "<|im_system|>tool_declare<|im_middle|>"
    k2 = renderer("kimi_k2").render_text([QUESTION], tools=TOOLS)
    assert k2.startswith(
        declared + '[{"function":{"name":"add","parameters":{"type":"object"}},"type":"function"}]'
        "<|im_end|><|im_system|>system<|im_middle|>You are Kimi"
    )
    k25 = renderer("kimi_k25").render_text([QUESTION], tools=TOOLS)
    assert k25 == (
        declared + "# Tools\n\n## functions\nnamespace functions {\ntype add = (_: {}) => any;\n}\n"
        f"<|im_end|>{ASKED}"
    )
    template = renderer("kimi_k25", tool_form="template").render_text([QUESTION], tools=TOOLS)
    assert '[{"type":"function","function":{"name":"add",' in template


PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    + (300).to_bytes(4, "big") + (100).to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
)  # fmt: skip


def test_images_stand_between_their_tokens() -> None:
    parts: Any = [{"type": "image", "image": PNG}, {"type": "text", "text": "What?"}]
    asked: list[Message] = [{"role": "user", "content": parts}]
    text = renderer("kimi_k25").render_text(asked)
    assert text == (
        "<|im_user|>user<|im_middle|><|media_begin|>image<|media_content|><|media_pad|>"
        "<|media_end|>\nWhat?<|im_end|>"
    )
    prompt = renderer("kimi_k25").build_generation_prompt(asked)
    [image] = [chunk for chunk in prompt.chunks if not hasattr(chunk, "tokens")]
    assert image.length == 11 * 4
    with pytest.raises(RendererError, match="kimi_k2 expresses text and thinking only"):
        renderer("kimi_k2").build_generation_prompt(asked)


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [
        (1, 1, 1),  # padded up
        (224, 224, 64),  # whole squares as they are
        (225, 224, 72),  # one row more
        (100, 7000, 4 * 250),  # long, but within the limits
        (100, 14336, 2 * 256),  # halved: 512 patches along a side
    ],
)
def test_an_image_is_shrunk_to_the_limits_and_padded(height: int, width: int, tokens: int) -> None:
    assert PaddedGrid().num_tokens(height, width) == tokens


def test_the_limit_of_patches_is_the_models() -> None:
    assert PaddedGrid(max_patches=65_536).num_tokens(2800, 2800) == 10_000
    assert PaddedGrid().num_tokens(2800, 2800) == 64 * 64  # 1792 pixels a side
