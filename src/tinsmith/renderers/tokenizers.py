"""Tokenizers, loaded once a process. Main name: `get_tokenizer`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

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
