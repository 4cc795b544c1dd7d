"""Terms by name, for configurations: `{kind = "kl_estimate", weight = 0.05}`.

A package adds kinds of its own by entry points of the group `tinsmith.regularizers`: the name is
the kind, the object a function of the kind's settings that returns a term. Main names:
`RegularizerConfig`, `list_regularizers`, `register_regularizer`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.regularizers.adaptive import make_rule
from tinsmith.regularizers.divergence import KL, Consistency, JensenShannon, KLEstimate
from tinsmith.regularizers.entropy import Entropy, SampledEntropy
from tinsmith.regularizers.geometry import Orthogonality
from tinsmith.regularizers.magnitude import L1, L2, ElasticNet, OutputMagnitude
from tinsmith.regularizers.policies import PolicyReference
from tinsmith.regularizers.schedules import make_weight_schedule
from tinsmith.regularizers.specs import OnError, OnNan, Regularizer

__all__ = [
    "ENTRY_POINTS",
    "RegularizerConfig",
    "list_regularizers",
    "register_regularizer",
    "unregister_regularizer",
]

ENTRY_POINTS = "tinsmith.regularizers"

TermFactory = Callable[..., Any]

# GradientPenalty is missing: it needs a function, which no configuration file can hold.
_BUILT_IN: dict[str, TermFactory] = {
    "l1": L1,
    "l2": L2,
    "elastic_net": ElasticNet,
    "output_magnitude": OutputMagnitude,
    "entropy": Entropy,
    "sampled_entropy": SampledEntropy,
    "kl": KL,
    "kl_estimate": KLEstimate,
    "jensen_shannon": JensenShannon,
    "consistency": Consistency,
    "orthogonality": Orthogonality,
}
_registered: dict[str, TermFactory] = {}


def register_regularizer(kind: str, factory: TermFactory) -> None:
    """Make a term available by name; it takes precedence over a built-in one.

    Args:
        kind: Its name in configurations.
        factory: Called with the settings of the configuration, returns the term.
    """
    _registered[kind] = factory


def unregister_regularizer(kind: str) -> None:
    """Forget a registered term; built-in ones and those of packages stay."""
    _registered.pop(kind, None)


def list_regularizers() -> list[str]:
    """All kinds, sorted."""
    return sorted({*_BUILT_IN, *_registered, *entry_points(group=ENTRY_POINTS).names})


def _factory_of(kind: str) -> TermFactory:
    if kind in _registered:
        return _registered[kind]
    if kind in _BUILT_IN:
        return _BUILT_IN[kind]
    for point in entry_points(group=ENTRY_POINTS, name=kind):
        return point.load()
    raise unknown_name("kind", kind, list_regularizers(), field="regularizers")


class RegularizerConfig(BaseModel):
    """A regularizer in a configuration; keys beyond these are the settings of its kind.

    In a flag it is written as in TOML: `{kind = "kl_estimate", weight = 0.05}`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    kind: str
    """Name of the term."""
    weight: float
    """Finite, 0 or more."""
    name: str = ""
    """Name in metrics; empty takes the kind's own."""
    enabled: bool = True
    """False leaves the term out."""
    schedule: dict[str, Any] | None = None
    """Factor of the weight by time: `{kind = "linear", over = 100}`."""
    state: dict[str, Any] | None = None
    """Rule that adapts the weight: `{kind = "dual_ascent", target = 0.1}`."""
    reference_policy: str | None = None
    """Model that the term refers to: "base", or a `tinker://` path of sampler weights."""
    on_error: OnError = "fail"
    """If it raises or takes too long: fail, skip, or partial."""
    on_nan: OnNan = "fail"
    """If its value or gradient is not finite: fail or skip."""
    timeout_s: float = Field(default=30.0)
    """Longest time in seconds."""
    distribution: int | Literal["full"] | None = None
    """Distribution at each position that the term needs: "full", or the likeliest K tokens."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            table = tomllib.loads(f"it = {value}")["it"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"regularizers={value!r}: not a TOML table: {error}",
                field="regularizers",
                hint="""write '{kind = "l1", weight = 0.01}'""",
            ) from error
        return table

    @model_validator(mode="after")
    def _check(self) -> RegularizerConfig:
        self.build()
        return self

    def __str__(self) -> str:
        """The text that a flag would have."""
        return _toml(self.model_dump(exclude_defaults=True))

    def build(self, **defaults: Any) -> Regularizer:
        """The term.

        Args:
            defaults: Settings for kinds that have them, where the configuration says nothing.

        Raises:
            UnknownNameError: no such kind.
            ConfigError: a setting is unknown, missing or not allowed.
        """
        factory = _factory_of(self.kind)
        known = _settings_of(factory)
        given = dict(self.model_extra or {})
        for name in given:
            if known is not None and name not in known:
                raise unknown_name(f"setting of {self.kind!r}", name, known, field=name)
        settings = {k: v for k, v in defaults.items() if known and k in known} | given
        # A configuration holds no logprobs, so what refers to some means the base model's, unless
        # the caller's data has some of chosen tokens.
        wants_base = (factory is KLEstimate and "reference" not in settings) or (
            self.distribution is not None and known is not None and "reference" in known
        )
        if self.reference_policy is not None or (wants_base and "reference" not in given):
            if known is not None and "reference" not in known:
                raise ConfigError(
                    f"reference_policy={self.reference_policy!r}: {self.kind!r} has no reference",
                    field="reference_policy",
                )
            settings["reference"] = PolicyReference(self.reference_policy or "base")
        try:
            term = factory(**settings)
        except TypeError as error:
            raise ConfigError(f"kind={self.kind!r}: {error}", field="regularizers") from error
        return Regularizer(
            term,
            self.weight,
            self.name or ("" if getattr(term, "name", "") else self.kind),
            schedule=_made(make_weight_schedule, "schedule", self.schedule),
            state=_made(make_rule, "state", self.state),
            enabled=self.enabled,
            on_error=self.on_error,
            on_nan=self.on_nan,
            timeout_s=self.timeout_s,
            distribution=self.distribution,
        )


def _settings_of(factory: TermFactory) -> list[str] | None:
    """Names of a kind's settings; None if it takes any."""
    if dataclasses.is_dataclass(factory):
        return [field.name for field in dataclasses.fields(factory)]
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _made(make: Callable[..., Any], field: str, table: Mapping[str, Any] | None) -> Any:
    if table is None:
        return None
    if not isinstance(table.get("kind"), str):
        raise ConfigError(
            f"{field}={dict(table)!r}: must have a kind",
            field=field,
            hint=f"""write {field} = {{kind = "..."}}""",
        )
    return make(**table)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
