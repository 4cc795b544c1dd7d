"""Random conversations with everything that some family can express.

Hypothesis draws them once a run, and every family is tried on the same ones: drawing takes longer
than rendering. `drawn` gives the list; a test that fails may call Hypothesis for a smallest case.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.renderers.conftest import TEXTS
from tinsmith.renderers import Message

SPELLED = st.sampled_from(
    ["<|im_end|>", "<|im_start|>user", "<think>", "</think>", "<|eot_id|>", "<tool_call>", "\n\n"]
)
WORDS = st.one_of(TEXTS, TEXTS, TEXTS, SPELLED.map(lambda word: f"a {word} b"))
NAMES = st.sampled_from(["add", "get_weather", "übersetze"])
VALUES = st.one_of(
    st.integers(-5, 10**6),
    st.booleans(),
    st.none(),
    st.sampled_from(
        [0.5, -1.25, "", "x", 'a "b"', "line\nline", "中文", "<b>&'", [1, "2"], {"k": {}}]
    ),
)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "place"]), VALUES, max_size=3)


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = st.lists(st.builds(call, NAMES, ARGUMENTS), min_size=1, max_size=2)
TOOLS = st.lists(
    st.builds(
        lambda name, description, parameters: {
            "type": "function",
            "function": {
                "name": name,
                "description": description,
                "parameters": {"type": "object", "properties": parameters, "required": []},
            },
        },
        NAMES,
        st.sampled_from(["Does it.", "Zwei\nZeilen", "“Quotes” & <tags>"]),
        st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.just({"type": "string", "description": "One."}),
            max_size=2,
        ),
    ),
    max_size=2,
)


@st.composite
def chats(draw: st.DrawFn) -> tuple[list[Message], list[dict[str, Any]]]:
    """Questions, answers with and without thinking, calls and their results; ends anywhere."""
    messages: list[Any] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(WORDS)})
    num_calls = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(WORDS)})
        for kind in draw(st.lists(st.sampled_from(["answer", "call", "thought"]), max_size=2)):
            answer: dict[str, Any] = {"role": "assistant", "content": draw(WORDS)}
            if kind == "thought":
                answer["reasoning_content"] = draw(WORDS)
            messages.append(answer)
            if kind == "call":
                answer["tool_calls"] = calls = draw(CALLS)
                for made in calls:
                    name = made["function"]["name"]
                    made["id"] = f"functions.{name}:{num_calls}"
                    num_calls += 1
                    if draw(st.integers(0, 4)):
                        messages.append(
                            {
                                "role": "tool",
                                "tool_call_id": made["id"],
                                "name": name,
                                "content": draw(WORDS),
                            }
                        )
    return messages, draw(TOOLS)


# Answers as models give them: no blanks at the ends, no tags of their own.
ANSWERS = st.lists(
    st.sampled_from(
        ["Hello", "don't", ": 12", "\n\n", " ", "你好", "🥳", "é", "{x}", "a\nb", "<b>"]
    ),
    min_size=1,
    max_size=6,
).map(lambda pieces: "".join(pieces).strip() or "x")


@st.composite
def answered(draw: st.DrawFn) -> tuple[list[Message], list[dict[str, Any]]]:
    """A conversation that ends with an answer of the assistant, perhaps with thinking."""
    messages, tools = draw(chats())
    answer: Message = {"role": "assistant", "content": draw(ANSWERS)}
    if draw(st.booleans()):
        answer["reasoning_content"] = draw(ANSWERS)
    question: Message = {"role": "user", "content": draw(ANSWERS)}
    return [*messages, question, answer], tools


@cache
def drawn(strategy: Callable[[], st.SearchStrategy[Any]], number: int) -> list[Any]:
    """That many draws, the same in every run of the CI profile."""
    found: list[Any] = []

    @settings(max_examples=number)
    @given(value=strategy())
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found[-number:]
