"""Tokenizers, loaded once a process. Main names: `get_tokenizer`, `get_tokenizer_config`."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tinsmith.core.errors import UserError, missing_extra, unknown_name
from tinsmith.core.paths import BUNDLED_MODEL, bundled_model_dir
from tinsmith.renderers.model_info import list_models


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


class _Key(NamedTuple):
    name: str
    revision: str | None
    trust_remote_code: bool


_cache: dict[_Key, Any] = {}
_locks: dict[_Key, threading.Lock] = {}
_cache_lock = threading.Lock()


def get_tokenizer(
    name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The tokenizer of a model, loaded once a process; safe to call from any thread.

    Args:
        name_or_path: `tinsmith/tiny`, a local directory, or a Hugging Face Hub name.
        revision: Branch, tag or commit on the Hub; pin a commit to get the same tokens for ever.
        trust_remote_code: Run code from the model's repository. Off: a model that needs it (Kimi
            K2) is refused by name.

    Raises:
        UserError: There is no such tokenizer here or on the Hub.
        MissingExtraError: transformers is not installed.
    """
    key = _Key(str(name_or_path), revision, trust_remote_code)
    with _cache_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:  # one of a name at a time; other names need not wait for its download
        if key not in _cache:
            _cache[key] = _load(key)
        return _cache[key]


def get_tokenizer_config(name_or_path: str, *, revision: str | None = None) -> dict[str, Any]:
    """A model's `tokenizer_config.json`, with its `chat_template` wherever that is kept.

    Args:
        name_or_path: As for `get_tokenizer`.
        revision: As for `get_tokenizer`.

    Raises:
        UserError: There is no such file here or on the Hub, or it is not JSON.
    """
    name = str(name_or_path)
    source = _source(name)
    text = _model_file(name, source, "tokenizer_config.json", revision)
    if text is None:
        raise _not_loaded(name, "it has no tokenizer_config.json")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _not_loaded(name, f"tokenizer_config.json is not JSON: {error}") from error
    if "chat_template" not in config:
        template = _model_file(name, source, "chat_template.jinja", revision)
        if template is not None:
            config["chat_template"] = template
    return config


def _model_file(name: str, source: str, file: str, revision: str | None) -> str | None:
    """Text of a file of a model; None where the model has no such file."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        path = folder / file
        return path.read_text("utf-8") if path.is_file() else None
    try:
        from transformers.utils.hub import cached_file
    except ImportError as error:
        raise missing_extra("transformers", "engine") from error
    try:
        found = cached_file(
            source,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )
    except (OSError, ValueError) as error:
        raise _not_loaded(name, _first_line(error)) from error
    return None if found is None else Path(found).read_text("utf-8")


def _source(name: str) -> str:
    """Where to load from; what cannot be on the Hub is refused before the Hub is asked."""
    source = str(bundled_model_dir()) if name == BUNDLED_MODEL else name
    _check_local(name, source)
    return source


def _load(key: _Key) -> Any:
    name = key.name
    source = _source(name)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "engine") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=key.revision or "main", trust_remote_code=key.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _not_loaded(name, _first_line(error)) from error
    # A model directory without tokenizer files gives an empty tokenizer, not an error.
    if len(tokenizer) <= len(tokenizer.get_added_vocab()) + 1:
        raise _not_loaded(name, "it has no vocabulary")
    return tokenizer


def _not_loaded(name: str, reason: str) -> UserError:
    known = list_models()
    near = [] if name in known else get_close_matches(name, known, n=1, cutoff=0.7)
    perhaps = f"did you mean {near[0]!r}? Or " if near else ""
    return UserError(
        f"model={name!r}: no tokenizer could be loaded ({reason})",
        field="model",
        hint=f"{perhaps}give {BUNDLED_MODEL}, a directory with tokenizer.json, or a Hub name",
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
