"""The messages of one row, checked: structure only, since what can be expressed is a renderer's.

`checked_conversation` takes a JSON object with `messages` and perhaps `tools`, both in OpenAI's
form, and says what is wrong with it by the place in the object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

from tinsmith.data.rows import RowProblem, json_kind
from tinsmith.renderers.messages import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles that some format can express."""
EXAMPLE = (
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
)
_CALL = '{"type": "function", "function": {"name": "f", "arguments": "{}"}}'
_TOOL = '{"type": "function", "function": {"name": "f", "parameters": {}}}'
_PARTS = {"text": "text", "thinking": "thinking", "image": "image", "image_url": "image_url"}
_THINKING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_TEXT_FIELDS = (*_THINKING_FIELDS, "name", "tool_call_id")


class CheckedMessages(NamedTuple):
    """Messages and the tools that they may call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]


def checked_conversation(row: Any, *, require_assistant: bool) -> CheckedMessages:
    """Check one row.

    Raises:
        RowProblem: What is wrong, and the cure.
    """
    if not isinstance(row, Mapping):
        raise RowProblem(
            f"the line is a JSON {json_kind(row)}, not an object", f"such as {EXAMPLE}"
        )
    if "messages" not in row:
        keys = ", ".join(map(str, row)) or "none"
        raise RowProblem(f"messages is missing (keys here: {keys})", f"such as {EXAMPLE}")
    if row.get("functions"):
        raise RowProblem("functions is set, and was replaced by tools", f"write tools: [{_TOOL}]")
    messages = checked_messages(row["messages"], "messages")
    if require_assistant and not any(m["role"] == "assistant" for m in messages):
        raise RowProblem(
            "no message has the role assistant, so there is nothing to learn",
            "add the answer, or remove the line",
        )
    return CheckedMessages(messages, _checked_tools(row.get("tools")))


def checked_messages(messages: Any, where: str) -> tuple[Message, ...]:
    """Check a list of messages that stands at `where` in its row.

    Raises:
        RowProblem: What is wrong, and the cure.
    """
    if not isinstance(messages, list):
        raise RowProblem(
            f"{where} is a JSON {json_kind(messages)}, not a list", f"such as {EXAMPLE}"
        )
    if not messages:
        raise RowProblem(f"{where} is empty", "remove the line, or give it messages")
    for index, message in enumerate(messages):
        _check_message(f"{where}[{index}]", message)
    return tuple(cast(Sequence[Message], messages))


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, Mapping):
        raise RowProblem(
            f"{where} is a JSON {json_kind(message)}, not an object", f"such as {EXAMPLE}"
        )
    if "role" not in message:
        raise RowProblem(f"{where}.role is missing", f"add it: one of {', '.join(ROLES)}")
    _check_role(where, message["role"])
    _check_calls(where, message)
    may_be_silent = message.get("tool_calls") or any(message.get(k) for k in _THINKING_FIELDS)
    if "content" not in message and not may_be_silent:
        raise RowProblem(f"{where}.content is missing", 'add it: use "" for no text')
    if message.get("content") is not None or not may_be_silent:
        _check_content(where, message["content"])
    for key in _TEXT_FIELDS:
        value = message.get(key)
        if value is not None and not isinstance(value, str):
            raise RowProblem(f"{where}.{key} is a JSON {json_kind(value)}, not text", "use text")
    for key in (*_TEXT_FIELDS, "tool_calls"):
        _check_all_text(f"{where}.{key}", message.get(key))
    _check_weights(where, message)


def _check_weights(where: str, message: Mapping[str, Any]) -> None:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowProblem(f"{where}.weight={weight!r}: must be 0 or 1", "remove it, or use 0 or 1")
    if not isinstance(message.get("trainable", True), bool):
        raise RowProblem(f"{where}.trainable={message['trainable']!r}", "use true or false")


def _check_role(where: str, role: Any) -> None:
    if role in ROLES:
        return
    allowed = f"must be {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    if role == "function":
        raise RowProblem(
            f"{where}.role={role!r}: {allowed}", "use tool, and tool_calls for the call"
        )
    near = get_close_matches(str(role).lower(), ROLES, n=1)
    cure = f"did you mean {near[0]!r}?" if near else "rename the role"
    raise RowProblem(f"{where}.role={role!r}: {allowed}", cure)


def _check_content(where: str, content: Any) -> None:
    if isinstance(content, str):
        _check_text(f"{where}.content", content)
        return
    if not isinstance(content, list):
        raise RowProblem(
            f"{where}.content is a JSON {json_kind(content)}, not text", 'use "" for no text'
        )
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else json_kind(part)
        if not isinstance(kind, str) or kind not in _PARTS:
            raise RowProblem(
                f"{where}.content[{place}] has type={kind!r}: must be {', '.join(_PARTS)}",
                'use {"type": "text", "text": "..."}',
            )
        value = part.get(_PARTS[kind])
        if value is None:
            raise RowProblem(
                f"{where}.content[{place}].{kind} is missing",
                f'use {{"type": "{kind}", "{kind}": "..."}}',
            )
        if kind in ("text", "thinking") and not isinstance(value, str):
            raise RowProblem(
                f"{where}.content[{place}].{kind} is a JSON {json_kind(value)}, not text",
                f'use {{"type": "{kind}", "{kind}": "..."}}',
            )
        if isinstance(value, str):
            _check_text(f"{where}.content[{place}].{kind}", value)


def _check_calls(where: str, message: Mapping[str, Any]) -> None:
    if message.get("function_call"):
        raise RowProblem(
            f"{where}.function_call is set, and was replaced by tool_calls",
            f"write tool_calls: [{_CALL}]",
        )
    calls = message.get("tool_calls")
    if not calls:
        return
    if not isinstance(calls, list):
        raise RowProblem(f"{where}.tool_calls is a JSON {json_kind(calls)}, not a list", _CALL)
    if message["role"] != "assistant":
        raise RowProblem(
            f"{where}.tool_calls is set, and only the assistant calls tools", "remove tool_calls"
        )
    for place, call in enumerate(calls):
        _check_call(f"{where}.tool_calls[{place}]", call)


def _check_call(where: str, call: Any) -> None:
    function = call.get("function") if isinstance(call, Mapping) else None
    kind = call.get("type", "function") if isinstance(call, Mapping) else "function"
    if kind not in ("function", None):
        raise RowProblem(f"{where}.type={kind!r}: must be function", f"write {_CALL}")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowProblem(f"{where} has no function with a name", f"write {_CALL}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise RowProblem(
                f"{where}.function.arguments is not JSON: {error}",
                "write an object, or the JSON text of one",
            ) from None
    if not isinstance(arguments, Mapping):
        raise RowProblem(
            f"{where}.function.arguments is a JSON {json_kind(arguments)}, not an object",
            "write an object, or the JSON text of one",
        )
    if isinstance(function["arguments"], str):
        _check_all_text(f"{where}.function.arguments", arguments)
    call_id = call.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise RowProblem(f"{where}.id is a JSON {json_kind(call_id)}, not text", "use text")


def _checked_tools(tools: Any) -> tuple[Mapping[str, Any], ...]:
    """Tools in OpenAI's form; tables store them as JSON text."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools or "[]")
        except ValueError as error:
            raise RowProblem(f"tools is not JSON: {error}", f"write [{_TOOL}]") from None
    if not tools:
        return ()
    if not isinstance(tools, list):
        raise RowProblem(f"tools is a JSON {json_kind(tools)}, not a list", f"write [{_TOOL}]")
    for place, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowProblem(f"tools[{place}] has no function with a name", f"write {_TOOL}")
    _check_all_text("tools", tools)
    return tuple(tools)


def _check_all_text(where: str, value: Any) -> None:
    """Check every text in a JSON value, names of keys too."""
    if isinstance(value, str):
        _check_text(where, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_text(where, key)
            _check_all_text(f"{where}.{key}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _check_all_text(f"{where}[{place}]", item)


def _check_text(where: str, text: str) -> None:
    # JSON can spell half of a surrogate pair; no text has it, and no tokenizer takes it.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise RowProblem(f"{where} holds \\u{code:04x}, half a character", "remove it") from None
