"""Conversations read once, checked, and in one form: what a format's writer is given.

`read_chat` turns the messages that users write into `Turn`s: thinking from a part or from one of
its three field names, content as text and images in order, calls checked. What the format cannot
express is refused here, with the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tinsmith.renderers.messages import Message, RendererError, ToolCall, ToolSpec
from tinsmith.renderers.schemas import check_parameters


class Feature(StrEnum):
    """What a format may be able to express beyond text."""

    THINKING = "thinking"
    TOOLS = "tools"
    IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image where it stands in a message, as the user gave it."""

    image: Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One message in the form that writers use.

    Attributes:
        index: Its place in the conversation.
        role: Who speaks.
        text: All of its text, without pictures.
        parts: Text and pictures in their order; a single text where there are no pictures.
        thinking: What was thought before the text; None where nothing was said about thinking, ""
            where thinking is known to be empty.
        tool_calls: Calls, each with a name and arguments.
        tool_call_id: The call that this result answers.
        name: Name of the speaker, or of the function whose result this is.
    """

    index: int
    role: str
    text: str
    parts: tuple[str | Picture, ...] = ()
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to be written.

    Attributes:
        turns: Its messages.
        tools: Declared functions, in OpenAI's form.
        opens_reply: Whether a reply's opening follows (a prompt), or nothing (an example).
        trains: Whether the last message is to be trained: then it is written as a model produces
            it, also where the family's template would leave part of it out.
    """

    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    opens_reply: bool = False
    trains: bool = False

    @property
    def last(self) -> Turn | None:
        """The final message."""
        return self.turns[-1] if self.turns else None


@dataclass(frozen=True)
class Abilities:
    """What a format can express, for checks and their error texts.

    Attributes:
        name: Name of the format.
        roles: Roles that it knows.
        features: What it can express beyond text.
    """

    name: str
    roles: tuple[str, ...]
    features: frozenset[Feature] = frozenset()


_PLAIN_KEYS = frozenset({"role", "content", "weight", "trainable"})
_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
_NEVER_EXPRESSED = ("function_call", "unparsed_tool_calls", "audio", "images")


def read_chat(
    messages: Iterable[Message],
    abilities: Abilities,
    *,
    tools: Sequence[Any] = (),  # Any: what a user gives; checked here
    opens_reply: bool = False,
    trains: bool = False,
) -> Chat:
    """Check a conversation and bring it into one form.

    Raises:
        RendererError: Something that the format cannot express, with the message's place.
    """
    turns = tuple(read_message(message, index, abilities) for index, message in enumerate(messages))
    if tools and Feature.TOOLS not in abilities.features:
        raise RendererError(
            f"tools are given: {abilities.name} cannot declare any",
            field="tools",
            hint="use a model and renderer with tool calls, or leave tools out",
        )
    declared = tuple(read_tool(tool, place) for place, tool in enumerate(tools))
    return Chat(turns, declared, opens_reply, trains)


def read_message(message: Message, index: int | None, abilities: Abilities) -> Turn:
    """Check one message and bring it into the form that writers use.

    Raises:
        RendererError: Role, field or part that the format has no place for.
    """
    role = message.get("role")
    if role not in abilities.roles:
        raise _refused(
            index,
            f"role={role!r}: {abilities.name} knows {', '.join(abilities.roles)}",
            "role",
            "this role needs a format that has it",
        )
    place = -1 if index is None else index
    content = message.get("content")
    if isinstance(content, str) and message.keys() <= _PLAIN_KEYS:  # most of them, and the fastest
        return Turn(place, role, content, (content,))
    extra: Mapping[str, Any] = message
    for key in _NEVER_EXPRESSED:
        if extra.get(key):
            raise _refused(
                index,
                f"{key} is set: {abilities.name} cannot express it",
                key,
                f"remove {key}, or write its text into content",
            )
    for key in ("name", "tool_call_id"):
        _check_text(extra.get(key), key, index)
    calls = _calls(message, index, abilities)
    parts, thinking = _content(message, index, abilities)
    return Turn(
        index=place,
        role=role,
        text="".join(part for part in parts if isinstance(part, str)),
        parts=parts,
        thinking=thinking,
        tool_calls=calls,
        tool_call_id=message.get("tool_call_id"),
        name=message.get("name"),
    )


def read_tool(tool: Any, place: int) -> ToolSpec:
    """A declared function in OpenAI's form; a bare function is wrapped.

    Raises:
        RendererError: It has no name, or its parameters are no JSON schema of an object.
    """
    wrapped = tool if isinstance(tool, Mapping) and "function" in tool else None
    function = wrapped["function"] if wrapped is not None else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RendererError(
            f"tools[{place}]: a function with a name is needed",
            field=f"tools.{place}",
            hint='use {"type": "function", "function": {"name": ..., "parameters": ...}}',
        )
    check_parameters(function.get("parameters"), place)
    return wrapped if wrapped is not None else {"type": "function", "function": function}  # type: ignore[return-value]  # checked above


def _calls(message: Message, index: int | None, abilities: Abilities) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls")
    if not calls:
        if message.get("tool_call_id") and message.get("role") != "tool":
            raise _refused(
                index,
                "tool_call_id is set: it belongs to a message with the role tool",
                "tool_call_id",
                "remove it",
            )
        return ()
    if Feature.TOOLS not in abilities.features or message["role"] != "assistant":
        who = abilities.name if Feature.TOOLS not in abilities.features else "only the assistant"
        verb = "cannot express it" if who == abilities.name else "calls tools"
        raise _refused(
            index,
            f"tool_calls is set: {who} {verb}",
            "tool_calls",
            "remove tool_calls, or write its text into content",
        )
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if (
            not isinstance(function, Mapping)
            or not isinstance(function.get("name"), str)
            or not isinstance(arguments, str | Mapping)
        ):
            raise _refused(
                index,
                f"tool_calls[{place}]: a function with a name and arguments is needed",
                "tool_calls",
                'use {"type": "function", "function": {"name": ..., "arguments": {...}}}',
            )
        _check_text(call.get("id"), f"tool_calls[{place}].id", index)
    return tuple(calls)


def _check_text(value: Any, field: str, index: int | None) -> None:
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise _refused(index, f"{field} has type {kind}", field, "use text")


def _content(
    message: Message, index: int | None, abilities: Abilities
) -> tuple[tuple[str | Picture, ...], str | None]:
    """Parts in their order, and the thinking."""
    content = message.get("content")
    thinking = _thinking_field(message, index, abilities)
    if isinstance(content, str):
        return (content,), thinking
    if content is None and (message.get("tool_calls") or thinking):
        return ("",), thinking
    if not isinstance(content, list | tuple):
        raise _refused(
            index,
            f"content has type {type(content).__name__}: must be text or a list of parts",
            "content",
            'write "" for an empty message',
        )
    parts: list[str | Picture] = []
    thoughts: list[str] = []
    for part in content:
        piece = _part(part, index, abilities)
        if isinstance(piece, _Thought):
            if any(parts):
                raise _refused(
                    index,
                    "a thinking part follows text: thinking comes first in a message",
                    "content",
                    "put it first, or make two messages",
                )
            thoughts.append(piece.text)
        elif isinstance(piece, str) and parts and isinstance(parts[-1], str):
            parts[-1] += piece
        else:
            parts.append(piece)
    if any(thoughts) and not _may_think(message, abilities):
        raise _refused(
            index,
            f"a thinking part: {abilities.name} has no thinking here",
            "content",
            "remove it, or make a text part of it",
        )
    if thoughts and thinking:
        raise _refused(
            index, "thinking stands in a field and in a part", "content", "keep one of them"
        )
    return tuple(parts or ("",)), "".join(thoughts) if thoughts else thinking


@dataclass(frozen=True, slots=True)
class _Thought:
    text: str


def _part(part: Any, index: int | None, abilities: Abilities) -> str | Picture | _Thought:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if (
        kind == "thinking"
        and isinstance(part.get("thinking"), str)
        and Feature.THINKING in abilities.features
    ):
        return _Thought(part["thinking"])
    if kind in ("image", "image_url") and Feature.IMAGES in abilities.features:
        image = part.get("image", part.get("image_url"))
        return Picture(image["url"] if isinstance(image, Mapping) and "url" in image else image)
    allowed = ["text", *sorted({"thinking", "images"} & {f.value for f in abilities.features})]
    raise _refused(
        index,
        f"content part type={kind!r}: {abilities.name} expresses {' and '.join(allowed)} only",
        "content",
        'use {"type": "text", "text": "..."}',
    )


def _thinking_field(message: Message, index: int | None, abilities: Abilities) -> str | None:
    extra: Mapping[str, Any] = message
    found: str | None = None
    for key in _THINKING_KEYS:
        value = extra.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _refused(index, f"{key} has type {type(value).__name__}", key, "use text")
        if value and not _may_think(message, abilities):
            raise _refused(
                index,
                f"{key} is set: {abilities.name} has no thinking here",
                key,
                f"remove {key}, or write its text into content",
            )
        if found and value and value != found:
            raise _refused(
                index, f"thinking stands in two fields, and {key} says another", key, "keep one"
            )
        found = found or value
    return found


def _may_think(message: Message, abilities: Abilities) -> bool:
    return Feature.THINKING in abilities.features and message["role"] == "assistant"


def _refused(index: int | None, what: str, field: str, cure: str) -> RendererError:
    where = "" if index is None else f"message {index}: "
    return RendererError(f"{where}{what}", field=field, hint=cure, message_index=index)
