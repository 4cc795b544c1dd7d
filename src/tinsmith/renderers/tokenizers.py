"""Tokenizers: loaded once a process, and text encoding that keeps control tokens out of text.

`get_tokenizer` loads by name or directory; `TextEncoder` encodes pieces of a chat format.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from tinsmith.core.errors import UserError, missing_extra, unknown_name
from tinsmith.core.paths import BUNDLED_MODEL, bundled_model_dir


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = True
    ) -> list[int]: ...

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str: ...

    def get_added_vocab(self) -> dict[str, int]: ...


_cache: dict[str, Any] = {}
_cache_lock = threading.Lock()


def get_tokenizer(name_or_path: str) -> Any:
    """The tokenizer of a model, loaded once a process; safe to call from any thread.

    Args:
        name_or_path: `tinsmith/tiny`, a local directory, or a Hugging Face Hub name. No code from
            the model's repository is run.

    Raises:
        UserError: There is no such tokenizer here or on the Hub.
        MissingExtraError: transformers is not installed.
    """
    key = str(name_or_path)
    with _cache_lock:
        if key not in _cache:
            _cache[key] = _load(key)
        return _cache[key]


def _load(name: str) -> Any:
    source = str(bundled_model_dir()) if name == BUNDLED_MODEL else name
    _check_local(name, source)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "engine") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, _first_line(error)) from error
    # A model directory without tokenizer files gives an empty tokenizer, not an error.
    if len(tokenizer) <= len(tokenizer.get_added_vocab()) + 1:
        raise _not_loaded(name, "it has no vocabulary")
    return tokenizer


def _not_loaded(name: str, reason: str) -> UserError:
    return UserError(
        f"model={name!r}: no tokenizer could be loaded ({reason})",
        field="model",
        hint=f"give {BUNDLED_MODEL}, a directory with tokenizer.json, or a Hub name",
    )


def _check_local(name: str, source: str) -> None:
    """Refuse what cannot be on the Hub before the Hub is asked for it."""
    if source.startswith(BUNDLED_MODEL.split("/", maxsplit=1)[0] + "/"):
        raise unknown_name("model", name, [BUNDLED_MODEL], field="model")
    path = Path(source).expanduser()
    looks_local = source.startswith(("/", "./", "../", "~")) or source.count("/") > 1
    if path.is_dir() or not looks_local:
        return
    problem = "is a file" if path.is_file() else "does not exist"
    raise UserError(
        f"model={name!r}: {problem}; a model directory is needed",
        field="model",
        hint=f"check the path, or use {BUNDLED_MODEL}",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def decode_exactly(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Text of tokens as it is: control tokens written out, no spaces tidied."""
    return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def token_id(tokenizer: Tokenizer, token: str, *, renderer: str) -> int:
    """Id of a control token.

    Raises:
        UserError: The tokenizer has no such token, so the format does not fit the model.
    """
    found = tokenizer.get_added_vocab().get(token)
    if found is None:
        raise UserError(
            f"renderer={renderer!r}: the tokenizer has no {token} token",
            field="renderer",
            hint="this model has another chat format; role_colon works with any tokenizer",
        )
    return found


class TextEncoder:
    """Encodes text that is part of a chat format.

    Args:
        tokenizer: A Hugging Face tokenizer.
        special_text: What text that spells a control token becomes: `text` (its letters) or
            `control` (the token itself).
    """

    def __init__(self, tokenizer: Tokenizer, *, special_text: Literal["text", "control"]) -> None:
        self._tokenizer = tokenizer
        self._spellings = _control_spellings(tokenizer) if special_text == "text" else ()
        self._headers: dict[str, list[int]] = {}
        self._literal: Any = None
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Tokens of `text` without the tokenizer's own beginning and end tokens."""
        if not text:
            return []
        if any(spelling in text for spelling in self._spellings):
            return self._encode_literally(text)
        # Not verbose: whether a text is too long is for others to say, with its file and line.
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def encode_split(self, header: str, body: str) -> tuple[list[int], list[int]]:
        """Tokens of `header + body`, split after the last token that holds a piece of `header`."""
        alone = self._headers.get(header)
        if alone is None:  # a handful of role lines, met again in every message
            alone = self._headers[header] = self.encode(header)
        if not body:
            return list(alone), []
        joint = self.encode(header + body)
        cut = len(alone)
        if joint[:cut] != alone:
            cut = next(
                n
                for n in range(1, len(joint) + 1)
                if len(decode_exactly(self._tokenizer, joint[:n])) >= len(header)
            )
        return joint[:cut], joint[cut:]

    def _encode_literally(self, text: str) -> list[int]:
        with self._lock:
            if self._literal is None:
                self._literal = _literal_twin(self._tokenizer)
        return self._literal(text)


def _control_spellings(tokenizer: Any) -> tuple[str, ...]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return tuple(str(token.content) for token in added.values() if token.special)


def _literal_twin(tokenizer: Any) -> Any:
    """An encoder that never makes a control token.

    Fast tokenizers hold the switch as state, so the original, which others share, stays untouched
    and a copy of its backend is switched.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda text: tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
    twin = type(backend).from_str(backend.to_str())
    twin.encode_special_tokens = True
    return lambda text: twin.encode(text, add_special_tokens=False).ids
