"""`config` and `summary` of a run, with access by attribute and by item; nested maps made flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from tinsmith.core.errors import ConfigError

__all__ = ["Config", "Summary", "flatten", "settings_of"]


def flatten(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested maps as one, names joined by `/`.

    Example:
        >>> flatten({"loss": 1, "eval": {"chats": {"loss": 2}}})
        {'loss': 1, 'eval/chats/loss': 2}
    """
    flat: dict[str, object] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(cast("Mapping[str, object]", value), f"{name}/"))
        else:
            flat[name] = value
    return flat


def settings_of(config: object) -> dict[str, object]:
    """Return a configuration as a map: one already, or an object such as `argparse` makes.

    Raises:
        ConfigError: it is neither.
    """
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(cast("Mapping[str, object]", config))
    if hasattr(config, "__dict__") and not isinstance(config, type):
        return dict(vars(config))
    raise ConfigError(
        f"config={config!r:.100}: must be a map, or an object with attributes", field="config"
    )


class _Values:
    """A map with attributes; `changed` is told of what was set."""

    def __init__(self, values: dict[str, object], changed: Callable[[dict[str, object]], None]):
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_changed", changed)

    _values: dict[str, object]
    _changed: Callable[[dict[str, object]], None]

    def _set(self, values: dict[str, object]) -> None:
        self._values.update(values)
        self._changed(values)

    def __getitem__(self, key: str) -> Any:  # Any: whatever was put there
        return self._values[key]

    def __setitem__(self, key: str, value: object) -> None:
        self._set({key: value})

    def __getattr__(self, key: str) -> Any:  # Any: as above
        if key.startswith("__") or key not in self._values:
            raise AttributeError(f"{type(self).__name__}: has no {key!r}")
        return self._values[key]

    def __setattr__(self, key: str, value: object) -> None:
        self[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> Any:  # Any: a view
        return self._values.keys()

    def items(self) -> Any:  # Any: a view
        return self._values.items()

    def get(self, key: str, default: Any = None) -> Any:  # Any: whatever was put there
        return self._values.get(key, default)

    def as_dict(self) -> dict[str, object]:
        return dict(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class Config(_Values):
    """What the run was told; a value that is there changes only by `allow_val_change`."""

    def __setitem__(self, key: str, value: object) -> None:
        self.update({key: value})

    def update(self, values: object, allow_val_change: bool = False) -> None:
        """Add settings.

        Raises:
            ConfigError: one has another value already.
        """
        given = settings_of(values)
        for key, value in given.items():
            if not allow_val_change and key in self and self[key] != value:
                raise ConfigError(
                    f"config: {key}={self[key]!r} is set and would become {value!r}",
                    field=key,
                    hint="config.update({...}, allow_val_change=True)",
                )
        self._set(given)

    def setdefaults(self, values: Mapping[str, object]) -> None:
        """Add those settings that are not there."""
        self._set({key: value for key, value in values.items() if key not in self})


class Summary(_Values):
    """One value of each metric: the last, what `define_metric` says, or what the script set."""

    def update(self, values: Mapping[str, object]) -> None:
        """Set values; nested maps become `outer/inner`."""
        self._set(flatten(values))
