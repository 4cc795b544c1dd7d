"""What each training loss accepts, and the checks of it; NumPy only.

`LOSS_INPUTS` maps a loss's name to its `LossInputs`: which inputs a datum must carry and which
settings it takes. `check_loss_config` and `check_loss_inputs` turn what a user sent into what the
loss's function takes, or say which field of which datum is wrong. Kept apart from the functions
(`losses`) so that a process without torch can refuse a bad request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.core.errors import ConfigError, DataError, unknown_name
from tinsmith.types import TensorData

__all__ = [
    "LOSS_INPUTS",
    "MAX_SPARSE_CELLS",
    "REFUSED_LOSSES",
    "LossInputs",
    "check_loss_config",
    "check_loss_inputs",
    "check_targets",
    "dense_loss_inputs",
    "find_loss_inputs",
]


@dataclass(frozen=True)
class LossInputs:
    """What one loss accepts."""

    name: str
    required_inputs: tuple[str, ...]
    """Keys besides `target_tokens`; each has the shape of `target_tokens`."""
    optional_inputs: tuple[str, ...] = ()
    config_defaults: Mapping[str, float] = field(default_factory=dict[str, float])
    signal: str = "advantages"
    """The input whose non-zero entries are counted as `loss_tokens`."""
    several_targets: bool = False
    """Whether `target_tokens` may be (N, K)."""
    averaged_over: str | None = None
    """A mask whose marked tokens the loss takes a mean over: a datum with a signal marks some."""


MAX_SETTING = float(np.finfo(np.float32).max)
"""Largest value of a loss's setting."""

MAX_SPARSE_CELLS = 2**24
"""Cells of one sparse input once it is dense: its few bytes may name any shape."""

_RL_INPUTS = ("logprobs", "advantages")

LOSS_INPUTS: dict[str, LossInputs] = {
    spec.name: spec
    for spec in (
        LossInputs("cross_entropy", ("weights",), signal="weights", several_targets=True),
        LossInputs("importance_sampling", _RL_INPUTS),
        LossInputs(
            "ppo",
            _RL_INPUTS,
            config_defaults={"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
        ),
        LossInputs(
            "cispo",
            _RL_INPUTS,
            config_defaults={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
        ),
        # Tinker states no default for beta; 0.05 is the value of its example.
        LossInputs("dro", _RL_INPUTS, config_defaults={"beta": 0.05}),
        # Tinker states no defaults for gspo's bounds; these are the paper's 3e-4 and 4e-4 about 1.
        LossInputs(
            "gspo",
            (*_RL_INPUTS, "sequence_ratio_mask"),
            config_defaults={"clip_low_threshold": 0.9997, "clip_high_threshold": 1.0004},
            averaged_over="sequence_ratio_mask",
        ),
    )
}

REFUSED_LOSSES: dict[str, str] = {
    "custom": "it runs an uploaded graph, and none is named (loss_fn_config.loss_id)",
    "stable_reinforce": "its formula is not public, so it cannot be computed here",
}
"""Losses that the protocol names and this service refuses, with the reason."""


def find_loss_inputs(name: str) -> LossInputs:
    """What the loss of that name accepts.

    Raises:
        UnknownNameError: there is none; offers the nearest.
        ConfigError: the protocol has a loss of that name, and it cannot be computed here.
    """
    if name in REFUSED_LOSSES:
        raise ConfigError(
            f"loss_fn={name!r}: {REFUSED_LOSSES[name]}",
            field="loss_fn",
            hint=f"use one of {', '.join(sorted(LOSS_INPUTS))}",
        )
    spec = LOSS_INPUTS.get(name)
    if spec is None:
        raise unknown_name("loss_fn", name, sorted(LOSS_INPUTS), field="loss_fn")
    return spec


def check_loss_config(
    spec: LossInputs, config: Mapping[str, float | str] | None
) -> dict[str, float]:
    """The loss's settings: defaults overlaid with `config`.

    Raises:
        ConfigError: a key that the loss does not take, or a value that is no sensible number.
    """
    resolved = dict(spec.config_defaults)
    for key, value in (config or {}).items():
        if key not in spec.config_defaults:
            allowed = ", ".join(spec.config_defaults) or "none"
            raise ConfigError(
                f"loss_fn_config.{key}: {spec.name} takes no such setting (it takes: {allowed})",
                field=f"loss_fn_config.{key}",
            )
        # Losses are computed in float32; torch refuses a bound beyond it in the middle of a batch.
        if isinstance(value, str) or not 0 <= value <= MAX_SETTING:
            raise ConfigError(
                f"loss_fn_config.{key}={value!r}: must be a number from 0 to {MAX_SETTING:.2g}",
                field=f"loss_fn_config.{key}",
            )
        resolved[key] = float(value)
    low, high = resolved.get("clip_low_threshold"), resolved.get("clip_high_threshold")
    if low is not None and high is not None and low > high:
        raise ConfigError(
            f"loss_fn_config.clip_low_threshold={low:g}: must not exceed "
            f"clip_high_threshold={high:g} (both bound the probability ratio itself)",
            field="loss_fn_config.clip_low_threshold",
        )
    return resolved


def dense_loss_inputs(
    inputs: Mapping[str, TensorData], *, datum_index: int
) -> dict[str, npt.NDArray[Any]]:
    """A datum's loss inputs as dense arrays; cells that a sparse one does not list are 0.

    So a padding cell is a target of token 0 with weight 0, which adds nothing to a loss.

    Raises:
        DataError: a sparse input that would be too large.
    """
    for key, tensor in inputs.items():
        num_cells = math.prod(tensor.shape)
        if tensor.is_sparse and num_cells > MAX_SPARSE_CELLS:
            problem = f"{num_cells} cells, at most {MAX_SPARSE_CELLS} are computed"
            raise _bad_input(datum_index, key, problem)
    return {key: tensor.to_numpy() for key, tensor in inputs.items()}


def check_loss_inputs(
    spec: LossInputs,
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    num_tokens: int,
    vocab_size: int,
    datum_index: int,
) -> dict[str, npt.NDArray[Any]]:
    """A datum's loss inputs, each in its dtype and all in the shape of `target_tokens`.

    Args:
        spec: the loss.
        inputs: arrays by key, as the user sent them.
        num_tokens: length of the datum's model input.
        vocab_size: targets must lie in [0, vocab_size).
        datum_index: position of the datum in its request, for messages.

    Raises:
        DataError: a missing or unexpected key, a wrong shape, a token outside the vocabulary, or a
            value that is not finite.
    """
    wanted = ("target_tokens", *spec.required_inputs)
    for key in wanted:
        if key not in inputs:
            raise _bad_input(datum_index, key, f"missing; {spec.name} needs {', '.join(wanted)}")
    for key in inputs:
        if key not in wanted and key not in spec.optional_inputs:
            raise _bad_input(
                datum_index, key, f"unexpected; {spec.name} takes {', '.join(wanted)} only"
            )
    targets = inputs["target_tokens"]
    if targets.ndim != 1 and not (targets.ndim == 2 and spec.several_targets):
        allowed = "(N,) or (N, K)" if spec.several_targets else "(N,)"
        problem = f"shape {targets.shape} must be {allowed} for {spec.name}"
        raise _bad_input(datum_index, "target_tokens", problem)
    check_targets(targets, num_tokens=num_tokens, vocab_size=vocab_size, datum_index=datum_index)
    checked: dict[str, npt.NDArray[Any]] = {"target_tokens": targets.astype(np.int64, copy=False)}
    for key, values in inputs.items():
        if key == "target_tokens":
            continue
        if values.shape != targets.shape:
            raise _bad_input(
                datum_index,
                key,
                f"shape {values.shape} must equal target_tokens' shape {targets.shape}",
            )
        floats = values.astype(np.float32, copy=False)
        if not np.isfinite(floats).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(floats))[0])
            raise _bad_input(
                datum_index, key, f"value {floats[where]} at position {where[0]} is not finite"
            )
        checked[key] = floats
    _check_marks(spec, checked, datum_index)
    return checked


def _check_marks(
    spec: LossInputs, checked: Mapping[str, npt.NDArray[Any]], datum_index: int
) -> None:
    mask = spec.averaged_over
    if mask is None:
        return
    marks = checked[mask]
    if not np.isin(marks, (0, 1)).all():
        where = tuple(int(i) for i in np.argwhere(~np.isin(marks, (0, 1)))[0])
        problem = f"value {marks[where]:g} at position {where[0]} must be 0 or 1: a mark, no weight"
        raise _bad_input(datum_index, mask, problem)
    if not marks.any() and checked[spec.signal].any():
        raise _bad_input(
            datum_index, mask, f"marks no token; {spec.name} takes a mean over those it marks"
        )


def check_targets(
    targets: npt.NDArray[Any], *, num_tokens: int, vocab_size: int, datum_index: int
) -> None:
    """Check `target_tokens` (N,) or (N, K).

    Raises:
        DataError: another shape or dtype, or a token outside the vocabulary.
    """
    name = "target_tokens"
    if targets.dtype.kind not in "iu":
        raise _bad_input(datum_index, name, f"dtype {targets.dtype} must be an integer type")
    if targets.shape[0] != num_tokens or 0 in targets.shape:
        raise _bad_input(
            datum_index,
            name,
            f"length {targets.shape[0]} must equal the model input's length {num_tokens}"
            if targets.shape[0] != num_tokens
            else "holds no targets",
        )
    if targets.min() < 0 or targets.max() >= vocab_size:
        outside = (targets < 0) | (targets >= vocab_size)
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise _bad_input(
            datum_index,
            name,
            f"token {targets[where]} at position {where[0]} is outside the vocabulary of "
            f"{vocab_size}",
        )


def _bad_input(datum_index: int, key: str, problem: str) -> DataError:
    name = f"loss_fn_inputs.{key}"
    return DataError(f"datum {datum_index}: {name}: {problem}", field=name, datum_index=datum_index)
