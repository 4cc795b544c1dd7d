"""Which base models the service offers, and what their configuration files say about them.

Names are the bundled model's, a local directory's or a Hub model's in the local cache. Facts come
from `config.json`, so that requests can be checked before the engine has loaded anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.core.paths import BUNDLED_MODEL, bundled_model_dir


@dataclass(frozen=True, slots=True)
class BaseModelFacts:
    """A base model as its configuration describes it."""

    name: str
    arch: str
    tokenizer_id: str
    vocab_size: int | None
    max_context_length: int | None


class BaseModelCatalog:
    """Names the service may load: those given, or any that is on this machine."""

    def __init__(self, names: tuple[str, ...], *, is_local: bool = True) -> None:
        """Resolves the given names.

        Args:
            names: base models to serve; none means any that is on this machine.
            is_local: clients are on this machine, so the bundled model's tokenizer can be named by
                its directory, which any tokenizer library can load.

        Raises:
            ConfigError: a given name is not on this machine.
        """
        self._facts: dict[str, BaseModelFacts] = {}
        self._is_open = not names
        self._is_local = is_local
        for name in names or (BUNDLED_MODEL,):
            facts = self._read(name)
            if facts is not None:
                self._facts[facts.name] = facts
            elif names:
                raise ConfigError(
                    f"model={name!r}: neither a model directory nor in the local Hub cache",
                    field="model",
                    hint=f"give a directory with config.json, or run: hf download {name}",
                )

    @property
    def offered(self) -> list[BaseModelFacts]:
        """The models given at start, or the bundled one and those asked for so far."""
        return list(self._facts.values())

    def resolve(self, name: str) -> BaseModelFacts:
        """Facts of a base model by the name in a request.

        Raises:
            UnknownNameError: it is not served; names the nearest one that is.
        """
        known = self._facts.get(name) or self._facts.get(_canonical(name))
        if known is None and self._is_open:
            known = self._read(name)
            if known is not None:
                self._facts[known.name] = known
        if known is None:
            offered = [*self._facts, *(_cached_names() if self._is_open else ())]
            raise unknown_name("base_model", name, offered, field="base_model")
        return known

    def _read(self, name: str) -> BaseModelFacts | None:
        facts = _read_facts(name)
        if facts is not None and facts.name == BUNDLED_MODEL and not self._is_local:
            return replace(facts, tokenizer_id=BUNDLED_MODEL)
        return facts


def _canonical(name: str) -> str:
    directory = _local_directory(name)
    return name if directory is None else str(directory.resolve())


def _local_directory(name: str) -> Path | None:
    """The directory of that name, if there is one; None too where it can be no path."""
    try:
        directory = Path(name).expanduser()
        return directory if directory.is_dir() else None
    except (OSError, RuntimeError):  # too long, not readable, or in an unknown user's home
        return None


def _read_facts(name: str) -> BaseModelFacts | None:
    config_file = _config_file(name)
    if config_file is None:
        return None
    try:
        config: dict[str, Any] = json.loads(config_file.read_text())  # Any: foreign file
    except (OSError, ValueError):
        return None
    text_config: dict[str, Any] = config.get("text_config") or config
    is_bundled = name == BUNDLED_MODEL
    return BaseModelFacts(
        name=name if is_bundled else _canonical(name),
        arch=str(config.get("model_type", "")),
        tokenizer_id=str(config_file.parent) if is_bundled else _canonical(name),
        vocab_size=_positive(text_config.get("vocab_size")),
        max_context_length=_positive(text_config.get("max_position_embeddings")),
    )


def _config_file(name: str) -> Path | None:
    directory = bundled_model_dir() if name == BUNDLED_MODEL else _local_directory(name)
    if directory is not None and directory.is_dir():
        return directory / "config.json" if (directory / "config.json").is_file() else None
    return _cached_config_file(name)


def _cached_config_file(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _cached_names() -> list[str]:
    """Hub models in the local cache, for suggestions."""
    from huggingface_hub.constants import HF_HUB_CACHE

    prefix = "models--"
    folders = Path(HF_HUB_CACHE).glob(f"{prefix}*")
    return [folder.name.removeprefix(prefix).replace("--", "/") for folder in folders]


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
