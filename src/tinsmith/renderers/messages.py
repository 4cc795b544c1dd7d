"""The vocabulary of chat: messages, which of them are trained, and how a reply ended.

`Message` is what users write; `RenderedMessage` is what a renderer makes of one; `TrainOnWhat`
names the messages whose outputs carry loss weight; `ParseTermination` says how a reply ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, NotRequired, Required, TypedDict

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import UserError
from tinsmith.types import EncodedTextChunk, ModelInput

ROLES = ("system", "user", "assistant")
"""Roles that the text formats of this package can express."""


class TextPart(TypedDict):
    """One piece of text in a message whose content is a list of parts."""

    type: Literal["text"]
    text: str


class Message(TypedDict, total=False):
    """One message of a conversation.

    `trainable` belongs to `TrainOnWhat.CUSTOMIZED` alone. `weight` is 0 or 1, as in OpenAI's
    files: 0 takes a message out of the loss that `TrainOnWhat` would have put in.
    """

    role: Required[str]
    content: Required[str | list[TextPart]]
    trainable: NotRequired[bool]
    weight: NotRequired[float]


class RendererError(UserError):
    """A conversation, or a reply, that a format cannot express.

    Attributes:
        message_index: Place of the message in the conversation; None if it is about all of it.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        message_index: int | None = None,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.message_index = message_index


class TrainOnWhat(StrEnum):
    """The messages whose outputs carry weight 1. Headers carry it in `ALL_TOKENS` alone."""

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    """The final message, if it is the assistant's."""
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    """Every assistant message after the last user message."""
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    """Every assistant message."""
    ALL_MESSAGES = "all_messages"
    """Every message of any role; headers stay at 0."""
    ALL_TOKENS = "all_tokens"
    """Headers and outputs of every message."""
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    """Every user and system message."""
    CUSTOMIZED = "customized"
    """Messages with `trainable=True`; every message must then carry the key."""


class ParseTermination(StrEnum):
    """How a reply ended."""

    STOP_SEQUENCE = "stop_sequence"
    """With the format's own end of turn."""
    EOS = "eos"
    """With the tokenizer's end of text instead of the end of turn."""
    MALFORMED = "malformed"
    """Cut off, or with text after its end of turn."""

    @property
    def is_clean(self) -> bool:
        return self is not ParseTermination.MALFORMED

    @property
    def is_stop_sequence(self) -> bool:
        return self is ParseTermination.STOP_SEQUENCE


@dataclass(frozen=True)
class RenderedMessage:
    """One message as tokens, in three parts.

    Attributes:
        header: What a prompt forces before the message.
        output: What the model has to produce for it, with the token that ends its turn.
        stop_overlap: The part of the *next* turn that doubles as the stop sequence; it follows
            the last message of a training example and nothing else.
    """

    header: tuple[int, ...]
    output: tuple[int, ...]
    stop_overlap: tuple[int, ...] = ()


class SupervisedExample(NamedTuple):
    """Tokens and their loss weights, one weight a token, before the shift by one."""

    model_input: ModelInput
    weights: NDArray[np.float32]


class ParsedResponse(NamedTuple):
    """A reply as a message, and how it ended."""

    message: Message
    termination: ParseTermination


def model_input_of(tokens: Sequence[int]) -> ModelInput:
    """Tokens as one text chunk; no chunk for no tokens, since a service refuses empty ones."""
    return ModelInput(chunks=[EncodedTextChunk(tokens=list(tokens))] if tokens else [])


def content_text(message: Message, index: int | None = None) -> str:
    """Text of a message; a list of text parts is joined without a separator.

    Raises:
        RendererError: The content is missing, or holds what text cannot express.
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    where = _place(index)
    if not isinstance(content, list):
        raise RendererError(
            f"{where}content has type {type(content).__name__}: must be text or a list of text "
            "parts",
            field="content",
            hint='write "" for an empty message',
            message_index=index,
        )
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RendererError(
                f"{where}content part type={kind!r}: this format expresses text parts only",
                field="content",
                hint='use {"type": "text", "text": "..."}',
                message_index=index,
            )
    return "".join(part["text"] for part in content)


_INEXPRESSIBLE = (
    "tool_calls",
    "function_call",
    "tool_call_id",
    "unparsed_tool_calls",
    "reasoning_content",
    "thinking",
    "reasoning",
    "audio",
    "images",
)


def check_text_message(message: Message, index: int | None, format_name: str) -> None:
    """Refuse what a plain text format would have to drop.

    Raises:
        RendererError: Unknown role, or a field such as `tool_calls` that is not empty.
    """
    role = message.get("role")
    if role not in ROLES:
        raise RendererError(
            f"{_place(index)}role={role!r}: {format_name} knows {', '.join(ROLES)}",
            field="role",
            hint="tool and developer messages need a format that has them",
            message_index=index,
        )
    extra: Mapping[str, Any] = message
    for key in _INEXPRESSIBLE:
        if extra.get(key):
            raise RendererError(
                f"{_place(index)}{key} is set: {format_name} cannot express it",
                field=key,
                hint=f"remove {key}, or write its text into content",
                message_index=index,
            )


def trained_messages(messages: Sequence[Message], train_on_what: TrainOnWhat) -> list[bool]:
    """For every message, whether its output is trained.

    Raises:
        RendererError: `trainable` is missing under `CUSTOMIZED`, or present under another value.
    """
    _check_trainable_keys(messages, train_on_what)
    roles = [message["role"] for message in messages]
    last_user = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
    last = len(roles) - 1

    def is_trained(index: int) -> bool:
        role = roles[index]
        match train_on_what:
            case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
                return role == "assistant" and index == last
            case TrainOnWhat.LAST_ASSISTANT_TURN:
                return role == "assistant" and index > last_user
            case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
                return role == "assistant"
            case TrainOnWhat.ALL_MESSAGES | TrainOnWhat.ALL_TOKENS:
                return True
            case TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
                return role in ("user", "system")
            case TrainOnWhat.CUSTOMIZED:
                return messages[index].get("trainable", False)

    return [is_trained(i) and messages[i].get("weight", 1) != 0 for i in range(len(messages))]


def _check_trainable_keys(messages: Sequence[Message], train_on_what: TrainOnWhat) -> None:
    wanted = train_on_what is TrainOnWhat.CUSTOMIZED
    for index, message in enumerate(messages):
        if ("trainable" in message) is wanted:
            continue
        problem = "is missing" if wanted else "is set"
        cure = (
            "give every message trainable true or false"
            if wanted
            else 'set train_on_what="customized", or remove the key'
        )
        raise RendererError(
            f"message {index}: trainable {problem} with train_on_what={train_on_what.value!r}",
            field="trainable",
            hint=cure,
            message_index=index,
        )


def _place(index: int | None) -> str:
    return "" if index is None else f"message {index}: "
