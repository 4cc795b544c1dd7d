"""What is special about gpt-oss: channels, dates, calls, and tools as TypeScript."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets import asset
from tests.unit.renderers.families import standin
from tinsmith.renderers import Message, ParseTermination, Renderer, RendererError, get_renderer
from tinsmith.renderers.typescript import namespace

QUESTION: Message = {"role": "user", "content": "Q"}
THOUGHT: Message = {"role": "assistant", "content": "A", "reasoning_content": "R"}


def renderer(name: str = "gpt_oss_medium_reasoning", **options: Any) -> Renderer:
    return get_renderer(name, standin("o200k-harmony"), **options)


def ids(text: str) -> list[int]:
    return standin("o200k-harmony").encode(text, add_special_tokens=False)


def test_the_date_is_an_option() -> None:
    text = renderer(date="2025-01-31").render_text([QUESTION])
    assert "Current date: 2025-01-31\n\nReasoning: medium\n\n# Valid channels:" in text


def test_without_a_system_turn_the_rest_is_the_same() -> None:
    bare = renderer("gpt_oss_no_sysprompt").render_text([QUESTION], add_generation_prompt=True)
    assert bare == "<|start|>user<|message|>Q<|end|><|start|>assistant"
    whole = renderer(date="2025-01-31").render_text([QUESTION], add_generation_prompt=True)
    assert whole.endswith(f"<|end|>{bare}")


def test_a_trained_reply_holds_all_of_its_channels() -> None:
    example = renderer().build_supervised_example([QUESTION, THOUGHT])
    tokens = example.model_input.to_ints()
    trained = [token for token, w in zip(tokens, example.weights, strict=True) if w]
    assert standin("o200k-harmony").decode(trained) == (
        "<|channel|>analysis<|message|>R<|end|><|start|>assistant"
        "<|channel|>final<|message|>A<|return|>"
    )


@pytest.mark.parametrize("end", ["", "<|return|>", "<|return|><|call|>"])
def test_a_reply_ends_cleanly_cut_off_or_not_at_all(end: str) -> None:
    reply = ids(
        f"<|channel|>analysis<|message|>R<|end|><|start|>assistant<|channel|>final<|message|>A{end}"
    )
    if end.count("<") == 2:
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            renderer().parse_response(reply)
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            list(renderer().stream_parse(reply))
        return
    message, termination = renderer().parse_response(reply)
    thinking = {"type": "thinking", "thinking": "R"}
    assert message["content"] == [thinking, {"type": "text", "text": "A"}]
    assert termination.is_clean is bool(end)
    assert list(renderer().stream_parse(reply))[-1] == (message, termination)


@pytest.mark.parametrize("content_type", ["json", "<|constrain|>json"])
def test_a_call_is_read_and_leaves_no_markup(content_type: str) -> None:
    reply = ids(
        "<|channel|>analysis<|message|>R<|end|><|start|>assistant to=functions.add"
        f'<|channel|>commentary {content_type}<|message|>{{"a": 1}}<|call|>'
    )
    message, termination = renderer().parse_response(reply)
    assert termination is ParseTermination.STOP_SEQUENCE
    assert message["content"] == [{"type": "thinking", "thinking": "R"}]
    [call] = message["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_a_recipient_in_the_channel_and_a_preamble_are_read() -> None:
    reply = ids(
        "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>"
    )
    message, _ = renderer().parse_response(reply)
    assert message["content"] == "Let me see."
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": "{}"}


@pytest.mark.parametrize(
    ("header", "body", "error"),
    [
        (" to=functions.add", '{"a": ', "arguments are not JSON"),
        (" to=python", "1 + 1", "python is no function"),
        (" to=functions.add", "[1]", "arguments are no JSON object"),
    ],
)
def test_a_broken_call_is_reported(header: str, body: str, error: str) -> None:
    reply = ids(f"{header}<|channel|>commentary json<|message|>{body}<|call|>")
    message, _ = renderer().parse_response(reply)
    [broken] = message["unparsed_tool_calls"]
    assert error in broken["error"]
    assert body in broken["raw_text"]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([QUESTION, {"role": "system", "content": "S"}], "is not the first"),
        ([QUESTION, {"role": "tool", "content": "1"}], "a tool's result without a call"),
        (
            [QUESTION, {**THOUGHT, "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {}}}]}],
            "text and thinking beside a tool call",
        ),
        (
            [QUESTION, {"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {}}}] * 2}],
            "2 tool calls",
        ),
    ],
)  # fmt: skip
def test_what_the_format_cannot_express_is_refused(messages: list[Message], error: str) -> None:
    with pytest.raises(RendererError, match=f"message 1: .*{error}"):
        renderer().build_generation_prompt(messages)


PLAIN_SCHEMAS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "number", "integer", "boolean", "array", "object"])},
        optional={"nullable": st.booleans(), "description": st.sampled_from(["One.", ""]),
                  "default": st.sampled_from([1, "x", None, True, [1]])},
    ),
    st.just({"type": "string", "enum": ["a", "b"], "default": "a"}),
    st.just({"type": ["string", "null"]}),
    st.just({"description": "Anything."}),
)  # fmt: skip


def nested(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "place"])
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": schemas},
                              optional={"nullable": st.booleans()}),
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, schemas, max_size=2)},
            optional={"required": st.lists(names, max_size=2)},
        ),
        st.fixed_dictionaries({"oneOf": st.lists(schemas, min_size=1, max_size=3)},
                              optional={"default": st.just("x")}),
    )  # fmt: skip


@settings(max_examples=300)
@given(
    parameters=st.dictionaries(
        st.sampled_from(["a", "b", "c"]), st.recursive(PLAIN_SCHEMAS, nested, max_leaves=6)
    ),
    required=st.lists(st.sampled_from(["a", "b"]), max_size=2),
)
def test_any_schema_is_declared_as_the_template_declares_it(
    parameters: dict[str, Any], required: list[str]
) -> None:
    template = asset("chat_templates", "openai__gpt-oss-20b.jinja").read_text("utf-8")
    function = {
        "name": "f",
        "description": "Does it.",
        "parameters": {"type": "object", "properties": parameters, "required": required},
    }
    tool: Any = {"type": "function", "function": function}
    text = standin("o200k-harmony").apply_chat_template(
        [QUESTION], tools=[tool], chat_template=template, tokenize=False
    )
    declared = text.partition("# Tools\n\n")[2].partition("<|end|>")[0]
    assert namespace("functions", [tool]) == declared
