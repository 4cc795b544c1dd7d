"""Conversations from a JSONL file: one object a line with `messages`, checked when it is opened.

`ConversationFile` holds the training and held-out conversations and the order of every epoch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.renderers.messages import ROLES, Message

logger = logging.getLogger(__name__)

_OTHER_ROLES = ("tool", "developer", "function")
_FIELDS_WE_DROP = ("tools", "functions")
_EXAMPLE = (
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
)


@dataclass(frozen=True)
class Conversation:
    """One line of a file.

    Attributes:
        messages: The conversation.
        path: File it comes from.
        line: Its line there, counted from 1.
    """

    messages: tuple[Message, ...]
    path: str
    line: int


@dataclass(frozen=True)
class ConversationFile:
    """A conversation file, split and shuffled by seed.

    The split is taken once, before any epoch: the first `test_size` of
    `numpy.random.default_rng(seed).permutation(n)` are held out, and a training conversation equal
    to a held-out one is left out, with a warning that counts them. Every epoch has an order of its
    own.

    Attributes:
        path: The file.
        train: Training conversations, in file order.
        test: Held-out conversations, in file order.
        seed: Seed of the split and of the orders.
        num_duplicates_dropped: Training conversations left out because they are held out, too.
    """

    path: str
    train: tuple[Conversation, ...]
    test: tuple[Conversation, ...]
    seed: int
    num_duplicates_dropped: int = 0

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        test_size: float = 0,
        seed: int = 0,
        require_assistant: bool = True,
    ) -> ConversationFile:
        """Read and check a file.

        Args:
            path: JSONL file in UTF-8; blank lines are skipped.
            test_size: Conversations to hold out: a number of them, or a fraction below 1.
            seed: Seed of the split and of the orders.
            require_assistant: Refuse a conversation in which the assistant says nothing.

        Raises:
            DataError: `path:line: what is wrong`, with the cure.
            ConfigError: `test_size` leaves nothing to train on.
        """
        conversations = read_conversations(path, require_assistant=require_assistant)
        num_test = _num_test(test_size, len(conversations), str(path))
        held_out = set(
            np.random.default_rng(seed).permutation(len(conversations))[:num_test].tolist()
        )
        test = tuple(c for i, c in enumerate(conversations) if i in held_out)
        rest = [c for i, c in enumerate(conversations) if i not in held_out]
        unseen = {_fingerprint(c) for c in test}
        train = tuple(c for c in rest if _fingerprint(c) not in unseen)
        if not train:
            raise ConfigError(
                f"test_size={test_size}: every conversation of {path} is also held out",
                field="test_size",
                hint="hold out fewer, or remove duplicates from the file",
            )
        num_dropped = len(rest) - len(train)
        if num_dropped:
            logger.warning(
                "%s: %d training conversations equal a held-out one and are left out",
                path,
                num_dropped,
            )
        return cls(str(path), train, test, seed, num_dropped)

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Indices into `train` for an epoch, as `epoch_order` gives them for `seed`."""
        return epoch_order(len(self.train), self.seed, epoch)


def epoch_order(num_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of an epoch: `numpy.random.default_rng(seed + epoch).permutation(num_items)`."""
    return np.random.default_rng(seed + epoch).permutation(num_items)


def read_conversations(
    path: str | Path, *, require_assistant: bool = True
) -> tuple[Conversation, ...]:
    """Read and check every line of a JSONL file.

    Raises:
        DataError: `path:line: what is wrong`, with the cure.
    """
    conversations = tuple(
        Conversation(_parse_line(text, str(path), line, require_assistant), str(path), line)
        for line, text in _lines(Path(path))
    )
    if not conversations:
        raise DataError(
            f"{path}: the file holds no conversation",
            field="data",
            file=str(path),
            hint=f"write one conversation a line, such as {_EXAMPLE}",
        )
    return conversations


def _num_test(test_size: float, num_conversations: int, path: str) -> int:
    count = round(test_size * num_conversations) if 0 < test_size < 1 else test_size
    if count != int(count) or count < 0:
        raise ConfigError(
            f"test_size={test_size}: must be a whole number of conversations or a fraction below 1",
            field="test_size",
        )
    if count >= num_conversations:
        raise ConfigError(
            f"test_size={test_size}: {path} has {num_conversations} conversations, so none would "
            "be left to train on",
            field="test_size",
            hint="hold out fewer",
        )
    return int(count)


def _fingerprint(conversation: Conversation) -> str:
    return json.dumps([(m["role"], m["content"]) for m in conversation.messages])


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(
            f"{path}: {problem}", field="data", file=str(path), hint="check the path"
        ) from error
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise _data_error(
                str(path), number, f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8"
            ) from error
        if text.strip():
            lines.append((number, text))
    return lines


def _parse_line(text: str, path: str, line: int, require_assistant: bool) -> tuple[Message, ...]:
    try:
        return _checked_messages(_parse_json(text), require_assistant)
    except _Problem as problem:
        raise _data_error(path, line, problem.what, problem.cure) from None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _Problem(
            f"not JSON: {error.msg} at column {error.colno}",
            "write one JSON object a line" if text.lstrip()[:1] == "{" else f"such as {_EXAMPLE}",
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number too long
        raise _Problem(f"not readable as JSON: {error}", f"such as {_EXAMPLE}") from None


class _Problem(Exception):
    """What is wrong with a line; becomes a DataError that knows the place."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


def _checked_messages(row: Any, require_assistant: bool) -> tuple[Message, ...]:
    if not isinstance(row, Mapping):
        raise _Problem(f"the line is a JSON {_kind(row)}, not an object", f"such as {_EXAMPLE}")
    if "messages" not in row:
        keys = ", ".join(map(str, row)) or "none"
        raise _Problem(f"messages is missing (keys here: {keys})", f"such as {_EXAMPLE}")
    for key in _FIELDS_WE_DROP:
        if row.get(key):
            raise _Problem(f"{key} is set, and no renderer here can express it", f"remove {key}")
    messages = row["messages"]
    if not isinstance(messages, list):
        raise _Problem(f"messages is a JSON {_kind(messages)}, not a list", f"such as {_EXAMPLE}")
    if not messages:
        raise _Problem("messages is empty", "remove the line, or give it messages")
    for index, message in enumerate(messages):
        _check_message(index, message)
    if require_assistant and not any(m["role"] == "assistant" for m in messages):
        raise _Problem(
            "no message has the role assistant, so there is nothing to learn",
            "add the answer, or remove the line",
        )
    return tuple(cast(Sequence[Message], messages))


def _check_message(index: int, message: Any) -> None:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise _Problem(f"{where} is a JSON {_kind(message)}, not an object", f"such as {_EXAMPLE}")
    for key in ("role", "content"):
        if key not in message:
            cure = f"one of {', '.join(ROLES)}" if key == "role" else 'use "" for no text'
            raise _Problem(f"{where}.{key} is missing", f"add it: {cure}")
    _check_role(where, message["role"])
    _check_content(where, message["content"])
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise _Problem(f"{where}.weight={weight!r}: must be 0 or 1", "remove it, or use 0 or 1")
    if not isinstance(message.get("trainable", True), bool):
        raise _Problem(f"{where}.trainable={message['trainable']!r}", "use true or false")


def _check_role(where: str, role: Any) -> None:
    if role in ROLES:
        return
    allowed = f"must be {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    if role in _OTHER_ROLES:
        raise _Problem(
            f"{where}.role={role!r}: no renderer here can express it; {allowed}",
            "remove the message, or write its text into another one",
        )
    near = get_close_matches(str(role).lower(), ROLES, n=1)
    cure = f"did you mean {near[0]!r}?" if near else "rename the role"
    raise _Problem(f"{where}.role={role!r}: {allowed}", cure)


def _check_content(where: str, content: Any) -> None:
    if isinstance(content, str):
        _check_text(f"{where}.content", content)
        return
    if not isinstance(content, list):
        raise _Problem(
            f"{where}.content is a JSON {_kind(content)}, not text", 'use "" for no text'
        )
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
        if kind != "text" or not isinstance(part.get("text"), str):
            raise _Problem(
                f"{where}.content[{place}] has type={kind!r}: only text can be expressed",
                'use {"type": "text", "text": "..."}',
            )
        _check_text(f"{where}.content[{place}].text", part["text"])


def _check_text(where: str, text: str) -> None:
    # JSON can spell half of a surrogate pair; no text has it, and no tokenizer takes it.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise _Problem(f"{where} holds \\u{code:04x}, half a character", "remove it") from None


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _data_error(path: str, line: int, what: str, cure: str) -> DataError:
    return DataError(f"{path}:{line}: {what}", field="data", file=path, line=line, hint=cure)
