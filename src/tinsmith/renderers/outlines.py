"""Where each message stands in what a chat template wrote, found with markers.

A template is a program: what it writes for a message may depend on all others. `find_outline`
renders the conversation twice, once with a marker in place of every text, and lines the two up.
Every stretch between markers must be the same in both, so a place is certain or refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.renderers.chats import Turn
from tinsmith.renderers.messages import RendererError
from tinsmith.renderers.tool_calls import arguments_object

TemplateMessage = dict[str, Any]
Render = Callable[[list[TemplateMessage]], str]

_MARKER = re.compile(r"zqMark(\d+)Erqz")


@dataclass(frozen=True)
class Place:
    """A text of a message in the rendered conversation, from `start` to `end` (characters)."""

    message: int
    key: str
    start: int
    end: int


@dataclass(frozen=True)
class _Field:
    message: int
    key: str
    value: str


@dataclass(frozen=True)
class Outline:
    """A rendered conversation and the places of its texts, in order."""

    text: str
    places: tuple[Place, ...]

    def of(self, message: int) -> list[Place]:
        """The places of one message."""
        return [place for place in self.places if place.message == message]


def template_messages(turns: Sequence[Turn], *, arguments_as_text: bool) -> list[TemplateMessage]:
    """Turns in the form that `apply_chat_template` takes.

    Args:
        turns: The conversation.
        arguments_as_text: Whether the template wants arguments as JSON text instead of an object.
    """
    messages: list[TemplateMessage] = []
    for turn in turns:
        message: TemplateMessage = {"role": turn.role, "content": turn.text}
        if turn.thinking is not None:
            message["reasoning_content"] = turn.thinking
        if turn.tool_calls:
            message["tool_calls"] = [
                {**call, "function": _function(call["function"], turn, arguments_as_text, place)}
                for place, call in enumerate(turn.tool_calls)
            ]
        for key in ("tool_call_id", "name"):
            if value := getattr(turn, key):
                message[key] = value
        messages.append(message)
    return messages


def _function(function: Any, turn: Turn, as_text: bool, place: int) -> dict[str, Any]:
    arguments = arguments_object(turn.tool_calls[place], turn.index)
    return {
        "name": function["name"],
        "arguments": json.dumps(arguments, ensure_ascii=False) if as_text else arguments,
    }


def find_outline(messages: Sequence[TemplateMessage], render: Render) -> Outline:
    """Find every text of a conversation in what the template writes.

    A text that the template leaves out (thinking of earlier turns) has no place.

    Raises:
        RendererError: The template changes a text in a way that cannot be followed, or writes one
            twice.
    """
    text = render(list(messages))
    fields, marked = _marked(messages)
    pieces = _MARKER.split(render(marked))
    literals, order = pieces[::2], [int(number) for number in pieces[1::2]]
    if len(set(order)) < len(order):
        twice = next(number for number in order if order.count(number) > 1)
        raise _lost(fields[twice], "the template writes it more than once")
    places: list[Place] = []
    position = _after(text, literals[0], 0, None)
    for number, following in zip(order, literals[1:], strict=True):
        field = fields[number]
        written = next(
            (
                candidate
                for candidate in _as_written(field.value)
                if text.startswith(candidate + following, position)
            ),
            None,
        )
        if written is None:
            raise _lost(field, "the template changes it in a way that cannot be followed")
        end = position + len(written)
        places.append(Place(field.message, field.key, position, end))
        position = _after(text, following, end, field)
    if position != len(text):
        raise _lost(None, "the template writes more for these texts than for others")
    return Outline(text, tuple(places))


def _marked(messages: Sequence[TemplateMessage]) -> tuple[list[_Field], list[TemplateMessage]]:
    """The texts, and the messages with markers in place of them.

    Empty texts stay: templates ask whether a text is empty. The name of a first call is marked, so
    that a message without text has a place, too.
    """
    fields: list[_Field] = []

    def mark(message: int, key: str, value: str) -> str:
        fields.append(_Field(message, key, value))
        return f"zqMark{len(fields) - 1}Erqz"

    marked: list[TemplateMessage] = []
    for index, message in enumerate(messages):
        copy = dict(message)
        for key in ("reasoning_content", "content"):
            value = copy.get(key)
            if isinstance(value, str) and value.strip():
                copy[key] = mark(index, key, value)
        if calls := copy.get("tool_calls"):
            name = mark(index, "tool_calls", calls[0]["function"]["name"])
            first = {**calls[0], "function": {**calls[0]["function"], "name": name}}
            copy["tool_calls"] = [first, *calls[1:]]
        marked.append(copy)
    return fields, marked


def _as_written(value: str) -> list[str]:
    """How templates write a text: as it is, trimmed, or as JSON."""
    quoted = json.dumps(value, ensure_ascii=False)[1:-1]
    return [
        value,
        value.strip(),
        value.strip("\n"),
        value.lstrip("\n"),
        value.lstrip(),
        value.rstrip(),
        value.rstrip("\n"),
        quoted,
    ]


def _after(text: str, literal: str, position: int, field: _Field | None) -> int:
    if not text.startswith(literal, position):
        raise _lost(field, "what the template writes around it depends on the text itself")
    return position + len(literal)


def _lost(field: _Field | None, why: str) -> RendererError:
    where = "" if field is None else f"message {field.message}: {field.key}: "
    return RendererError(
        f"{where}{why}, so its tokens cannot be told from the template's",
        field=None if field is None else field.key,
        hint="write a renderer for this family (CONTRIBUTING.md), or change the text",
        message_index=None if field is None else field.message,
    )
