"""What is special about DeepSeek V3.1: thinking targets, declared tools, chained calls."""

import pytest

from tests.unit.renderers.families import standin
from tinsmith.renderers import Message, ParseTermination, Renderer, RendererError, get_renderer

QUESTION: Message = {"role": "user", "content": "Q"}


def renderer(name: str = "deepseekv3") -> Renderer:
    return get_renderer(name, standin("deepseek-v3"))


def ids(text: str) -> list[int]:
    return standin("deepseek-v3").encode(text, add_special_tokens=False)


def trained_text(thinks: Renderer, messages: list[Message]) -> str:
    example = thinks.build_supervised_example(messages)
    tokens = example.model_input.to_ints()
    trained = [token for token, w in zip(tokens, example.weights, strict=True) if w]
    return standin("deepseek-v3").decode(trained)


@pytest.mark.parametrize(
    ("answer", "trained"),
    [
        ({"content": "A", "reasoning_content": "R"}, "R</think>A<｜end▁of▁sentence｜>"),
        ({"content": "<think>R</think>A"}, "R</think>A<｜end▁of▁sentence｜>"),
        ({"content": "A"}, "</think>A<｜end▁of▁sentence｜>"),
    ],
)
def test_a_trained_answer_keeps_its_thinking(answer: Message, trained: str) -> None:
    messages: list[Message] = [QUESTION, {"role": "assistant", **answer}]  # type: ignore[typeddict-item]
    assert trained_text(renderer("deepseekv3_thinking"), messages) == trained


def test_an_answer_in_history_has_no_thinking() -> None:
    answer: Message = {"role": "assistant", "content": "A", "reasoning_content": "R"}
    text = renderer("deepseekv3_thinking").render_text(
        [QUESTION, answer, QUESTION], add_generation_prompt=True
    )
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜></think>A<｜end▁of▁sentence｜>"
        "<｜User｜>Q<｜Assistant｜><think>"
    )


def test_thinking_has_no_place_where_the_prompt_closes_it_or_after_a_tool() -> None:
    thought: Message = {"role": "assistant", "content": "A", "reasoning_content": "R"}
    with pytest.raises(RendererError, match=r"message 1: .* closes thinking in the prompt"):
        renderer().build_supervised_example([QUESTION, thought])
    result: Message = {"role": "tool", "content": "21"}
    with pytest.raises(RendererError, match=r"message 2: .* thinks after a question only"):
        renderer("deepseekv3_thinking").build_supervised_example([QUESTION, result, thought])


def test_late_system_texts_move_to_the_front() -> None:
    late: Message = {"role": "system", "content": "S2"}
    text = renderer().render_text([{"role": "system", "content": "S1"}, QUESTION, late])
    assert text == "<｜begin▁of▁sentence｜>S1\n\nS2<｜User｜>Q"


def test_tools_are_declared_after_the_system_text() -> None:
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    text = renderer().render_text([{"role": "system", "content": "S"}, QUESTION], tools=[tool])
    assert text.startswith(
        "<｜begin▁of▁sentence｜>S\n\n## Tools\nYou have access to the following tools:\n\n"
        '### add\nDescription: Adds.\n\nParameters: {"type": "object"}\n\nIMPORTANT: '
    )
    assert text.endswith("without separators or spaces<｜User｜>Q")
    tokens = renderer().build_generation_prompt([QUESTION], tools=[tool]).to_ints()
    assert ids("<｜tool▁calls▁begin｜>")[0] in tokens


def call_text(name: str, arguments: str) -> str:
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


def test_calls_are_read_and_broken_ones_are_reported() -> None:
    good, bad = call_text("add", '{"a": 1}'), call_text("add", "{a")
    reply = f"Sure.<｜tool▁calls▁begin｜>{good}{bad}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    message, termination = renderer().parse_response(ids(reply))
    assert termination is ParseTermination.STOP_SEQUENCE
    assert message["content"] == "Sure."
    assert [c["function"] for c in message["tool_calls"]] == [
        {"name": "add", "arguments": '{"a": 1}'}
    ]
    [broken] = message["unparsed_tool_calls"]
    assert "arguments are not JSON" in broken["error"]
    assert "{a" in broken["raw_text"]


@pytest.mark.parametrize("opening", ["", "<think>"])
@pytest.mark.parametrize("num_ends", [0, 1, 2])
def test_replies_with_thinking_end_cleanly_cut_off_or_not_at_all(
    opening: str, num_ends: int
) -> None:
    reply = ids(f"{opening}R</think>A" + "<｜end▁of▁sentence｜>" * num_ends)
    thinks = renderer("deepseekv3_thinking")
    if num_ends == 2:
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            thinks.parse_response(reply)
        with pytest.raises(RendererError, match="2 end-of-turn tokens"):
            list(thinks.stream_parse(reply))
        return
    message, termination = thinks.parse_response(reply)
    assert message["content"] == [
        {"type": "thinking", "thinking": "R"},
        {"type": "text", "text": "A"},
    ]
    assert termination.is_clean is bool(num_ends)
    assert list(thinks.stream_parse(reply))[-1] == (message, termination)
