"""What a composed loss came to: `CustomLossOutput`, its JSON and its flat metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinsmith.core.errors import ConfigError, UserError
from tinsmith.regularizers.specs import Regularizer
from tinsmith.types import ForwardBackwardOutput, LossFnOutput

__all__ = ["BaseLossOutput", "CustomLossOutput", "RegularizerOutput", "combine_custom_outputs"]

BASE_NORM, TOTAL_NORM, ACCUMULATED_NORM = "base:", "total:", "accumulated:"
"""Names of the norms that are no term's."""


@dataclass(frozen=True)
class BaseLossOutput:
    """The loss that the terms are added to."""

    value: float
    grad_norm: float | None = None
    """L2 norm of its gradient by the logprobs, or by the adapter's parameters if so asked; None
    where it is not asked for, cannot be had or has none."""
    custom: Mapping[str, float] = field(default_factory=dict[str, float])
    """The metrics that the function returned."""

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "grad_norm": self.grad_norm, "custom": dict(self.custom)}


@dataclass(frozen=True)
class RegularizerOutput:
    """One term."""

    name: str
    value: float
    weight: float
    """As applied: with schedule, state and share."""
    contribution: float
    """`weight * value`."""
    grad_norm: float | None = None
    """L2 norm of its gradient by the logprobs, or by the adapter's parameters if so asked; None
    where it is not asked for, cannot be had or has none."""
    grad_norm_weighted: float | None = None
    """`weight * grad_norm`."""
    custom: Mapping[str, float] = field(default_factory=dict[str, float])
    """The metrics that the function returned."""
    is_differentiable: bool = True
    """False for a term whose value does not depend on the logprobs: it cannot train anything."""

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "weight": self.weight,
            "contribution": self.contribution,
            "grad_norm": self.grad_norm,
            "grad_norm_weighted": self.grad_norm_weighted,
            "custom": dict(self.custom),
        }


@dataclass(frozen=True)
class CustomLossOutput:
    """`loss_total = base + sum(weight * value)` over the terms.

    Attributes:
        loss_total: Of the call.
        base_loss: None when there was no `loss_fn`.
        regularizers: By name, in the order of the call; disabled and skipped ones are absent.
        regularizer_total: Sum of the contributions.
        total_grad_norm: L2 norm of the gradient of `loss_total`, that is of the sum of the
            gradients; None where it was not asked for or cannot be had.
        accumulated_grad_norm: L2 norm of all that was added since the last optimizer step, this
            call included: by the parameters what the step will see, of other calls, too; by the
            logprobs the root of the sum of the squares of the calls, None if one did not track it.
        skipped: Why a term with on_error="skip" or on_nan="skip" was left out, by name.
        partial: Datums that a term with on_error="partial" left out, by name.
        forward_backward: What the service answered; its metrics hold `reg/...`, too.
    """

    loss_total: float
    base_loss: BaseLossOutput | None
    regularizers: Mapping[str, RegularizerOutput]
    regularizer_total: float
    total_grad_norm: float | None = None
    accumulated_grad_norm: float | None = None
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])
    partial: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    forward_backward: ForwardBackwardOutput | None = None

    @property
    def metrics(self) -> Mapping[str, float]:
        """The service's metrics and those of the terms."""
        return self._answer.metrics

    @property
    def loss_fn_outputs(self) -> Sequence[LossFnOutput]:
        """Logprobs of each datum."""
        return self._answer.loss_fn_outputs

    @property
    def _answer(self) -> ForwardBackwardOutput:
        if self.forward_backward is None:
            raise UserError("forward_backward=None: this loss was not sent to a service")
        return self.forward_backward

    def with_grad_norms(self, norms: Mapping[str, float | None]) -> CustomLossOutput:
        """The same with these norms, by name of the term, `BASE_NORM` and `TOTAL_NORM`."""
        terms: dict[str, RegularizerOutput] = {}
        for name, term in self.regularizers.items():
            norm = norms.get(name)
            weighted = None if norm is None else term.weight * norm
            terms[name] = replace(term, grad_norm=norm, grad_norm_weighted=weighted)
        base = self.base_loss
        return replace(
            self,
            base_loss=base and replace(base, grad_norm=norms.get(BASE_NORM)),
            regularizers=terms,
            total_grad_norm=norms.get(TOTAL_NORM),
            accumulated_grad_norm=norms.get(ACCUMULATED_NORM),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; null for what is absent. `skipped` is there if something was."""
        document: dict[str, Any] = {
            "loss_total": self.loss_total,
            "base_loss": None if self.base_loss is None else self.base_loss.to_json(),
            "regularizers": {name: term.to_json() for name, term in self.regularizers.items()},
            "regularizer_total": self.regularizer_total,
            "total_grad_norm": self.total_grad_norm,
        }
        if self.skipped:
            document["skipped"] = dict(self.skipped)
        return document

    def flat_metrics(self) -> dict[str, float]:
        """`reg/<name>/...` for a recorder; what is absent has no key.

        A term's `share` is its part of `loss_total`, `grad_norm_share` that of `total_grad_norm`.
        """
        metrics: dict[str, float] = {}

        def put(name: str, value: float | None) -> None:
            if value is not None:
                metrics[f"reg/{name}"] = value

        if self.base_loss is not None:
            put("base/value", self.base_loss.value)
            put("base/grad_norm", self.base_loss.grad_norm)
        for name, term in self.regularizers.items():
            put(f"{name}/value", term.value)
            put(f"{name}/weight", term.weight)
            put(f"{name}/contribution", term.contribution)
            put(f"{name}/grad_norm", term.grad_norm)
            put(f"{name}/grad_norm_weighted", term.grad_norm_weighted)
            put(f"{name}/share", _ratio(term.contribution, self.loss_total))
            put(f"{name}/grad_norm_share", _ratio(term.grad_norm_weighted, self.total_grad_norm))
            for key, value in term.custom.items():
                put(f"{name}/{key}", value)
        put("total/loss", self.loss_total)
        put("total/regularizers", self.regularizer_total)
        put("total/grad_norm", self.total_grad_norm)
        put("total/accumulated_grad_norm", self.accumulated_grad_norm)
        if self.skipped:
            put("total/num_skipped", float(len(self.skipped)))
        return metrics


def combine_custom_outputs(
    outputs: Sequence[CustomLossOutput],
    shares: Sequence[float],
    regularizers: Sequence[Regularizer],
) -> CustomLossOutput:
    """One output of the parts of a batch, whether calls before an optimizer step or workers.

    Values combine as each term's `reduction` says, contributions add up. The parts hold different
    targets, so the norm of the whole gradient is the root of the sum of the squared norms, exactly.
    Custom metrics are means weighted by share.

    Args:
        outputs: Of calls with `CustomLossOptions(share=...)`.
        shares: Of those calls; their sum is 1.
        regularizers: Of those calls.

    Raises:
        ConfigError: the shares do not fit, or a term needs the whole batch.
    """
    if len(outputs) != len(shares) or not math.isclose(sum(shares), 1.0, rel_tol=1e-6):
        raise ConfigError(f"shares={list(shares)}: must be one for each output, 1 in all")
    terms: dict[str, RegularizerOutput] = {}
    for spec in regularizers:
        parts = [
            (o.regularizers[spec.name], s)
            for o, s in zip(outputs, shares, strict=True)
            if spec.name in o.regularizers
        ]
        if not parts:
            continue
        if spec.reduction == "whole_batch" and len(outputs) > 1:
            raise ConfigError(
                f"regularizers[{spec.name!r}]: needs the whole batch; its parts do not combine",
                field="regularizers",
            )
        terms[spec.name] = _combined_term(spec, parts)
    base = _combined_base(outputs, shares)
    regularizer_total = math.fsum(term.contribution for term in terms.values())
    return CustomLossOutput(
        loss_total=(base.value if base else 0.0) + regularizer_total,
        base_loss=base,
        regularizers=terms,
        regularizer_total=regularizer_total,
        total_grad_norm=_joint_norm([output.total_grad_norm for output in outputs]),
        skipped={name: why for output in outputs for name, why in output.skipped.items()},
    )


def _combined_term(
    spec: Regularizer, parts: Sequence[tuple[RegularizerOutput, float]]
) -> RegularizerOutput:
    is_mean = spec.reduction == "mean"
    total = sum(share for _, share in parts)
    factors = [share / total if is_mean else 1.0 for _, share in parts]
    value = math.fsum(f * term.value for f, (term, _) in zip(factors, parts, strict=True))
    weight = sum(term.weight for term, _ in parts) / (total if is_mean else len(parts))
    return RegularizerOutput(
        name=spec.name,
        value=value,
        weight=weight,
        contribution=math.fsum(term.contribution for term, _ in parts),
        grad_norm=_joint_norm(
            [
                None if term.grad_norm is None else factor * term.grad_norm
                for factor, (term, _) in zip(factors, parts, strict=True)
            ]
        ),
        grad_norm_weighted=_joint_norm([term.grad_norm_weighted for term, _ in parts]),
        custom=_mean_metrics([(term.custom, share) for term, share in parts]),
        is_differentiable=any(term.is_differentiable for term, _ in parts),
    )


def _combined_base(
    outputs: Sequence[CustomLossOutput], shares: Sequence[float]
) -> BaseLossOutput | None:
    bases = [output.base_loss for output in outputs if output.base_loss is not None]
    if not bases:
        return None
    return BaseLossOutput(
        value=math.fsum(base.value for base in bases),
        grad_norm=_joint_norm([base.grad_norm for base in bases]),
        custom=_mean_metrics([(b.custom, s) for b, s in zip(bases, shares, strict=False)]),
    )


def _mean_metrics(parts: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics, _ in parts for name in metrics)
    means: dict[str, float] = {}
    for name in names:
        having = [(metrics[name], share) for metrics, share in parts if name in metrics]
        means[name] = math.fsum(v * s for v, s in having) / math.fsum(s for _, s in having)
    return means


def _joint_norm(norms: Sequence[float | None]) -> float | None:
    """The norm of vectors side by side; None as soon as one is unknown."""
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known and len(known) == len(norms) else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
