"""The vocabulary of chat: what users write, and what a renderer gives back.

`Message` is one message of a conversation, in OpenAI's form with typed parts; `ToolSpec` declares a
function; `TrainOnWhat` names the messages whose outputs carry loss weight; `ParseTermination` says
how a reply ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, NotRequired, Required, TypedDict

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import UserError
from tinsmith.types import EncodedTextChunk, ModelInput

ROLES = ("system", "user", "assistant")
"""Roles that every format can express."""


class TextPart(TypedDict):
    """One piece of text in a message whose content is a list of parts."""

    type: Literal["text"]
    text: str


class ThinkingPart(TypedDict):
    """What the assistant thought before its text; formats without thinking refuse it."""

    type: Literal["thinking"]
    thinking: str


class ImagePart(TypedDict):
    """An image: the bytes of a PNG or JPEG file, a `data:` address, a path, or a PIL image."""

    type: Literal["image"]
    image: Any


ContentPart = TextPart | ThinkingPart | ImagePart


class FunctionCall(TypedDict):
    """A function's name and its arguments: a JSON object, or the text of one."""

    name: str
    arguments: str | Mapping[str, Any]


class ToolCall(TypedDict, total=False):
    """A call that the assistant makes, in OpenAI's form."""

    function: Required[FunctionCall]
    id: NotRequired[str | None]
    type: NotRequired[Literal["function"]]


class UnparsedToolCall(TypedDict):
    """A call that could not be read: its text as it was produced, and why."""

    raw_text: str
    error: str


class FunctionSpec(TypedDict, total=False):
    """A function that may be called; `parameters` is a JSON schema."""

    name: Required[str]
    description: NotRequired[str]
    parameters: NotRequired[Mapping[str, Any]]
    strict: NotRequired[bool]


class ToolSpec(TypedDict):
    """A tool in OpenAI's form."""

    type: Literal["function"]
    function: FunctionSpec


class Message(TypedDict, total=False):
    """One message of a conversation.

    Thinking is a part of `content`, or stands in `reasoning_content` as in other software's files
    (`thinking` and `reasoning` are read as the same). `content` may be None where `tool_calls` or
    thinking stand instead. `name` is the function's in a tool result; elsewhere only formats with a
    place for it write it. `trainable` belongs to `TrainOnWhat.CUSTOMIZED` alone. `weight` is 0 or
    1, as in OpenAI's files: 0 takes a message out of the loss that `TrainOnWhat` would have put in.
    """

    role: Required[str]
    content: Required[str | list[TextPart] | list[ContentPart] | None]
    reasoning_content: NotRequired[str | None]
    thinking: NotRequired[str | None]
    reasoning: NotRequired[str | None]
    tool_calls: NotRequired[Sequence[ToolCall] | None]
    unparsed_tool_calls: NotRequired[Sequence[UnparsedToolCall] | None]
    tool_call_id: NotRequired[str | None]
    name: NotRequired[str | None]
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


def content_text(message: Message) -> str:
    """The text that a message says aloud: its text parts joined, without thinking and calls."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if part["type"] == "text")


def trained_messages(messages: Sequence[Message], train_on_what: TrainOnWhat) -> list[bool]:
    """For every message, whether its output is trained.

    Raises:
        RendererError: `trainable` is missing under `CUSTOMIZED`, or present under another value;
            or a `weight` is neither 0 nor 1.
    """
    _check_trainable_keys(messages, train_on_what)
    _check_weights(messages)
    last = len(messages) - 1
    roles = [message["role"] for message in messages]
    is_assistant = [role == "assistant" for role in roles]
    match train_on_what:
        case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
            chosen = [yes and index == last for index, yes in enumerate(is_assistant)]
        case TrainOnWhat.LAST_ASSISTANT_TURN:
            last_user = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
            chosen = [yes and index > last_user for index, yes in enumerate(is_assistant)]
        case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
            chosen = is_assistant
        case TrainOnWhat.ALL_MESSAGES | TrainOnWhat.ALL_TOKENS:
            chosen = [True] * len(roles)
        case TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
            chosen = [role in ("user", "system") for role in roles]
        case TrainOnWhat.CUSTOMIZED:
            chosen = [message.get("trainable", False) for message in messages]
    return [
        yes and message.get("weight", 1) != 0 for yes, message in zip(chosen, messages, strict=True)
    ]


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


def _check_weights(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        if message.get("weight", 1) not in (0, 1):
            raise RendererError(
                f"message {index}: weight={message.get('weight')!r}: must be 0 or 1",
                field="weight",
                hint="a message is trained or not; repeat a conversation to make it count more",
                message_index=index,
            )
