"""The registry of events: what each means, what it measures and in which unit.

One convention. A name is `<domain>.<object>` or `<domain>.<object>.<phase>` in lower case. A moment
is a past participle or a noun (`checkpoint.saved`); a span is one record, written when it ends,
under the name of its object (`train.step`). Each span `x.y` has two moments beside it:
`x.y.started` for who wants to know at once, and `x.y.exception` when it ends by one.

A measurement that has a dimension says its unit at the end of its name: `duration_ms`, `cost_usd`.

An event that is not registered, or a measurement whose unit nobody knows, is an error in tests
(`strictly()`, or `TINSMITH_RECORD_STRICT=1`) and is recorded with one warning otherwise.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Generator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from tinsmith.core import environment
from tinsmith.core.errors import AlreadyExistsError, ConfigError, UserError, unknown_name

__all__ = [
    "UNITS",
    "EventSpec",
    "Measurement",
    "Registry",
    "check_emission",
    "find",
    "is_strict",
    "register",
    "registered",
    "strictly",
]

UNITS: Mapping[str, str] = {
    "1": "a plain number",
    "count": "how many",
    "fraction": "from 0 to 1",
    "nats": "natural logarithms of probabilities",
    "step": "a step of the run",
    "ns": "nanoseconds",
    "us": "microseconds",
    "ms": "milliseconds",
    "s": "seconds",
    "bytes": "bytes",
    "tokens": "tokens",
    "usd": "US dollars",
    "watts": "watts",
    "celsius": "degrees Celsius",
    "percent": "from 0 to 100",
}
"""Units that a measurement may have."""

_FREE_UNITS = {"1", "count", "fraction", "nats", "step"}
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}")
_MEASUREMENT = re.compile(r"[a-z][a-z0-9_]*")
_STARTED, _EXCEPTION = ".started", ".exception"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of an event."""

    name: str
    unit: str
    description: str = ""
    is_required: bool = False

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown_name("unit", self.unit, UNITS)
        if not _MEASUREMENT.fullmatch(self.name):
            raise ConfigError(
                f"measurement={self.name!r}: must be lower-case letters, digits and underscores",
                field="measurement",
            )
        if self.unit not in _FREE_UNITS and unit_of_name(self.name) != self.unit:
            raise ConfigError(
                f"measurement={self.name!r}: is in {self.unit}, so its name must end in it",
                field="measurement",
                hint=f"call it {self.name}_{self.unit}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """What an event is; also what emits it: `run.event(spec, {...})`."""

    name: str
    category: str
    description: str
    measurements: tuple[Measurement, ...] = ()
    metadata: tuple[str, ...] = ()
    """Names of metadata that one may expect; others are allowed."""
    is_span: bool = False
    version: int = 1
    """Goes up with every change of the fields."""
    also_known_as: tuple[str, ...] = ()
    """Names of the same event in crucible_telemetry and its sister packages."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"event={self.name!r}: must be <domain>.<object> or <domain>.<object>.<phase> in "
                "lower case",
                field="event",
            )
        names = [measurement.name for measurement in self.measurements]
        if len(set(names)) < len(names):
            raise ConfigError(f"event={self.name!r}: names a measurement twice", field="event")

    @property
    def started(self) -> EventSpec:
        """The moment at which this span begins."""
        return EventSpec(
            name=self.name + _STARTED,
            category=self.category,
            description=f"A span {self.name} began.",
            metadata=self.metadata,
            version=self.version,
        )

    @property
    def exception(self) -> EventSpec:
        """The moment at which this span ends by an exception; the span is written, too."""
        return EventSpec(
            name=self.name + _EXCEPTION,
            category=self.category,
            description=f"A span {self.name} ended by an exception.",
            measurements=(Measurement("duration_ms", "ms"),),
            metadata=(*self.metadata, "error", "message"),
            version=self.version,
        )


@dataclass
class Registry:
    """Events by name."""

    specs: dict[str, EventSpec] = field(default_factory=dict[str, EventSpec])

    def add(self, spec: EventSpec) -> EventSpec:
        """Register an event, and for a span its two moments.

        Raises:
            AlreadyExistsError: the name means something else already.
        """
        family = (spec, spec.started, spec.exception) if spec.is_span else (spec,)
        for one in family:
            known = self.specs.get(one.name)
            if known is not None and known != one:
                raise AlreadyExistsError(
                    f"event={one.name!r}: is registered already, with other fields",
                    field="event",
                    hint="choose another name; begin it with your package's",
                )
        for one in family:
            self.specs[one.name] = one
        return spec


_registry = Registry()
_strict: ContextVar[bool | None] = ContextVar("strict", default=None)


def register(spec: EventSpec) -> EventSpec:
    """Make an event known, and return it; registering the same again changes nothing.

    Raises:
        AlreadyExistsError: the name means something else already.

    Example:
        >>> CLEANED = register(EventSpec(
        ...     name="mylab.rows_cleaned",
        ...     category="data",
        ...     description="Rows were cleaned.",
        ...     measurements=(Measurement("duration_ms", "ms"), Measurement("num_rows", "count")),
        ... ))
    """
    return _registry.add(spec)


def registered(pattern: str = "*") -> list[EventSpec]:
    """Return the registered events whose names match a shell pattern, by name."""
    names = sorted(name for name in _registry.specs if fnmatch.fnmatchcase(name, pattern))
    return [_registry.specs[name] for name in names]


def find(name: str) -> EventSpec | None:
    """Return the event of a name, or None."""
    return _registry.specs.get(name)


def unit_of_name(name: str) -> str | None:
    """Return the unit that a measurement's name ends in, or None.

    Example:
        >>> unit_of_name("duration_ms"), unit_of_name("bytes"), unit_of_name("duration")
        ('ms', 'bytes', None)
    """
    last = name.rpartition("_")[2]
    return last if last in UNITS and last not in _FREE_UNITS else None


def check_emission(name: str, measurements: Iterable[str]) -> UserError | None:
    """Say what is wrong with emitting an event; None where nothing is.

    Args:
        name: The event.
        measurements: Names of what it measures.
    """
    spec = _registry.specs.get(name)
    if spec is None:
        error = unknown_name("event", name, _registry.specs)
        hint = "register it with tinsmith.telemetry.register(EventSpec(...))"
        error.hint = f"{error.hint} or {hint}" if error.hint else hint
        return error
    given = set(measurements)
    declared = {measurement.name for measurement in spec.measurements}
    for measurement in sorted(given - declared):
        if unit_of_name(measurement) is None:
            return UserError(
                f"event={name!r}: nobody knows the unit of measurement {measurement!r}",
                field="measurements",
                hint=f"end its name in one ({', '.join(sorted(set(UNITS) - _FREE_UNITS))}), or "
                "declare it in the event's EventSpec",
            )
    missing = [one.name for one in spec.measurements if one.is_required and one.name not in given]
    if missing:
        return UserError(
            f"event={name!r}: must measure {', '.join(missing)}",
            field="measurements",
            hint=f"declared are {', '.join(sorted(declared))}",
        )
    return None


def is_strict() -> bool:
    """Whether a wrong emission raises: asked for by `strictly`, else by the environment."""
    asked = _strict.get()
    return environment.is_record_strict() if asked is None else asked


@contextlib.contextmanager
def strictly(is_strict: bool = True) -> Generator[None]:
    """Make wrong emissions raise within a block, as tests want it (or, with False, warn)."""
    token = _strict.set(is_strict)
    try:
        yield
    finally:
        _strict.reset(token)
