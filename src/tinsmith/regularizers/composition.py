"""A base loss and weighted terms as one loss of the logprobs: `ComposedLoss`.

`total = base + sum(weight * value)`. Each function is called once. The total's gradient is one
backward pass; with gradient norms it is one for the base and one for each term, and their weighted
sum is the gradient that trains, so nothing is differentiated twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tinsmith.core.errors import ConfigError, UserError
from tinsmith.regularizers.distributions import Distributions, Width, widest
from tinsmith.regularizers.errors import RegularizerError
from tinsmith.regularizers.evaluation import Seen, failure_of, job_call, reason_of, seen_by
from tinsmith.regularizers.events import LossEvent, tell
from tinsmith.regularizers.execution import (
    Cancelled,
    Job,
    Outcome,
    Stop,
    call_and_wait,
    run_jobs,
)
from tinsmith.regularizers.gradients import (
    are_finite,
    gradients_of,
    norm_of,
    weighted_sum,
    with_gradients,
)
from tinsmith.regularizers.options import CustomLossOptions
from tinsmith.regularizers.outputs import (
    BASE_NORM,
    TOTAL_NORM,
    BaseLossOutput,
    CustomLossOutput,
    RegularizerOutput,
)
from tinsmith.regularizers.results import checked_result
from tinsmith.regularizers.specs import Regularizer, RegularizerFn, checked_regularizers
from tinsmith.regularizers.state import RegularizerState
from tinsmith.types import Datum, ForwardBackwardOutput

if TYPE_CHECKING:
    import torch

__all__ = ["ComposedLoss"]


@dataclass(frozen=True)
class _Part:
    """The base loss, or a term, as computed."""

    name: str
    weight: float
    loss: torch.Tensor
    custom: Mapping[str, float]
    gradients: list[torch.Tensor] | None = None

    @property
    def value(self) -> float:
        return float(self.loss.detach())

    @property
    def contribution(self) -> float:
        return self.weight * self.value if self.weight else 0.0


class ComposedLoss:
    """One call's loss; called once, with the logprobs of the whole batch.

    Args:
        base: `(data, logprobs) -> (loss, metrics)`; None for terms alone.
        regularizers: The terms; disabled ones are left out.
        state: Steps and adaptive weights to read; `commit` leaves what was seen there.
        options: How to compute it.
        track_grad_norms: Whether to find the norm of each gradient: by the logprobs, or with
            "parameters" by the adapter's parameters, which a service has to tell (`finished`).

    Raises:
        ConfigError: something about it is not allowed; nothing has been called.
        UserError: there is neither a base loss nor an enabled term.
    """

    def __init__(
        self,
        base: RegularizerFn | None,
        regularizers: Sequence[Regularizer] | None = None,
        *,
        state: RegularizerState | None = None,
        options: CustomLossOptions | None = None,
        track_grad_norms: bool | Literal["parameters"] = False,
    ) -> None:
        if track_grad_norms not in (False, True, "parameters"):
            raise ConfigError(
                f"track_grad_norms={track_grad_norms!r}: must be True, False or 'parameters'",
                field="track_grad_norms",
            )
        self._by_parameters = track_grad_norms == "parameters"
        self._gradients: dict[str, list[torch.Tensor]] = {}
        self._base = base
        self._terms = tuple(t for t in checked_regularizers(regularizers) if t.enabled)
        self._state = RegularizerState() if state is None else state
        self._options = options or CustomLossOptions()
        self._is_tracking = bool(track_grad_norms)
        self._output: CustomLossOutput | None = None
        self._serial = 0
        self._accumulated_norm: float | None = None
        self._partial: dict[str, tuple[int, ...]] = {}
        self._skipped: dict[str, str] = {}
        if base is None and not self._terms:
            raise UserError(
                "loss_fn=None: there must be a loss or an enabled regularizer",
                field="loss_fn",
                hint="pass loss_fn, regularizers=[...], or both",
            )
        self._options.check_shares(self._terms, has_base=base is not None)

    @property
    def output(self) -> CustomLossOutput:
        """What it came to.

        Raises:
            UserError: it has not been called.
        """
        if self._output is None:
            raise UserError("output: the loss has not been computed yet")
        return self._output

    def parameter_gradients(self) -> Mapping[str, Sequence[torch.Tensor]]:
        """The gradients whose norms by the parameters are wanted, by name of the term.

        `BASE_NORM` and `TOTAL_NORM`, which no term can be named, are the base loss and the total.
        """
        return self._gradients

    def finished(
        self, answer: ForwardBackwardOutput, norms: Mapping[str, float | None]
    ) -> CustomLossOutput:
        """The output, with what the service answered to its gradient.

        Args:
            answer: Of the backward pass.
            norms: By the parameters, by the names of `parameter_gradients`; absent where the
                service told none.
        """
        output = self.output
        if self._by_parameters:
            output = output.with_grad_norms(norms)
            self._state.note_accumulated(self._serial, output.accumulated_grad_norm)
        else:
            output = replace(output, accumulated_grad_norm=self._accumulated_norm)
        metrics = {**answer.metrics, **output.flat_metrics()}
        answer = answer.model_copy(update={"metrics": metrics})
        return replace(output, forward_backward=answer)

    def commit(self) -> None:
        """Let the state know that the gradient has been sent."""
        self._serial = self._state.observe(self._terms, self.output, self._options)
        self._accumulated_norm = self._state.accumulated_grad_norm

    @property
    def distribution(self) -> Width | None:
        """The distribution at each position that the terms need beside the targets, if any."""
        return widest(self._terms)

    @property
    def distribution_terms(self) -> list[str]:
        """Names of the terms that need one."""
        return [term.name for term in self._terms if term.distribution is not None]

    def __call__(
        self,
        data: list[Datum],
        logprobs: list[torch.Tensor],
        distributions: Distributions | None = None,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The total, with its gradient, and the metrics of the base loss and the terms.

        Args:
            data: Of the call.
            logprobs: Of the targets, leaves.
            distributions: At least as wide as `distribution`, where that is not None.

        Raises:
            RegularizerError: a term failed and its policy is to fail.
            UserError: the base loss returned no loss, or nothing depends on the logprobs.
        """
        started = time.perf_counter()
        about: dict[str, str | float | bool] = {
            "num_regularizers": len(self._terms),
            "num_datums": len(data),
            "track_grad_norms": self._is_tracking,
        }
        self._tell("custom_loss.start", {"time_ns": time.time_ns()}, about)
        import torch

        try:
            with torch.enable_grad():
                loss = self._compute(Seen(data, logprobs), distributions)
        except BaseException as error:
            duration = {"duration_s": time.perf_counter() - started}
            self._tell("custom_loss.exception", duration, {**about, "reason": reason_of(error)})
            raise
        output = self.output
        measured = {
            "duration_s": time.perf_counter() - started,
            "loss_total": output.loss_total,
            "regularizer_total": output.regularizer_total,
            "total_grad_norm": output.total_grad_norm,
        }
        self._tell("custom_loss.stop", measured, about)
        base_metrics = {} if output.base_loss is None else dict(output.base_loss.custom)
        return loss, base_metrics | output.flat_metrics()

    def _compute(self, chosen: Seen, distributions: Distributions | None) -> torch.Tensor:
        import torch

        leaves = [*chosen.logprobs, *(distributions.logprobs if distributions else ())]

        weights = [
            self._state.weight_of(term, self._options.epoch)
            * self._options.scale_of(term.reduction)
            for term in self._terms
        ]
        base = None if self._base is None else self._base_part(self._base, *chosen)
        outcomes = self._run_terms(seen_by(self._terms, chosen, distributions), weights)
        parts: list[_Part] = []
        durations: dict[str, float] = {}
        try:
            for term, weight, outcome in zip(self._terms, weights, outcomes, strict=True):
                part = self._part_of(term, weight, outcome)
                durations[term.name] = outcome.duration_s
                if part is not None:
                    parts.append(part)
            base, parts, total = self._with_gradients(base, parts, leaves)
        except BaseException as error:
            self._tell_ends(outcomes, weights, {}, failed=error)
            raise
        if total is None:
            raise UserError(
                "loss_fn: neither it nor any regularizer depends on the logprobs",
                field="loss_fn",
                hint="compute them from the tensors they are given, without detach() or item()",
            )
        if self._by_parameters:
            named = [(part.name, part.gradients) for part in parts]
            if base is not None and base.gradients is not None:
                named.append((BASE_NORM, [base.weight * g for g in base.gradients]))
            found = {name: gradients for name, gradients in named if gradients is not None}
            self._gradients = {TOTAL_NORM: total, **found}
        self._output = self._described(base, parts, total)
        self._tell_ends(outcomes, weights, {part.name: part for part in parts})
        value = torch.tensor(self._output.loss_total, dtype=torch.float64)
        return with_gradients(value, total, leaves)

    def _base_part(
        self, base: RegularizerFn, data: list[Datum], logprobs: list[torch.Tensor]
    ) -> _Part:
        returned = call_and_wait(lambda: base(data, list(logprobs)), Stop())
        try:
            loss, custom = checked_result(returned)
        except UserError as error:
            raise UserError(
                f"loss_fn: {error.message}", field="loss_fn", hint=error.hint
            ) from error
        if not math.isfinite(float(loss.detach())):
            raise UserError(
                f"loss_fn: its loss is {float(loss.detach())}",
                field="loss_fn",
                hint="look for log(0), 0/0 or an overflow in exp",
            )
        scale = self._options.scale_of(self._options.base_reduction)
        return _Part("base", scale, loss, custom)

    def _run_terms(self, seen: Sequence[Seen], weights: Sequence[float]) -> list[Outcome]:
        def on_start(index: int) -> None:
            self._tell(
                "regularizer.start", {"time_ns": time.time_ns()}, self._about(index, weights)
            )

        num_processes = sum(term.run_in == "process" for term in self._terms)
        if num_processes:
            from tinsmith.regularizers.processes import start_workers

            start_workers(num_processes)
        jobs = [
            Job(job_call(term, its), term.timeout_s, term.on_error == "fail")
            for term, its in zip(self._terms, seen, strict=True)
        ]
        return run_jobs(jobs, self._options.num_workers, on_start)

    def _part_of(self, term: Regularizer, weight: float, outcome: Outcome) -> _Part | None:
        """A term's part; None if it is left out.

        Raises:
            RegularizerError: it failed, and so must the call.
        """
        error = outcome.error
        if isinstance(error, Cancelled):
            return None  # the one that failed is raised in its place
        if error is not None:
            failure = failure_of(term, error)
            if term.on_error == "fail":
                raise failure from error
            self._skipped[term.name] = failure.message
            return None
        (loss, custom), left_out = outcome.result
        if left_out:
            self._partial[term.name] = left_out
        value = float(loss.detach())
        if not math.isfinite(value):
            return self._not_finite(term, f"its value is {value}")
        return _Part(term.name, weight, loss, custom)

    def _not_finite(self, term: Regularizer, what: str) -> None:
        error = RegularizerError(
            f"regularizers[{term.name!r}]: {what}",
            name=term.name,
            hint="look for log(0), 0/0 or an overflow in exp, or set on_nan='skip'",
        )
        if term.on_nan == "fail":
            raise error
        self._skipped[term.name] = error.message

    def _with_gradients(
        self, base: _Part | None, parts: list[_Part], leaves: list[torch.Tensor]
    ) -> tuple[_Part | None, list[_Part], list[torch.Tensor] | None]:
        """The parts with their gradients if these are asked for, and the gradient of the total."""
        if not self._is_tracking:
            total = _gradients_of_sum(base, parts, leaves)
            if are_finite(total):
                return base, parts, total
            # Something is not finite: only the gradients one by one can say which term it is.
        if base is not None:
            base = replace(base, gradients=gradients_of(base.loss, leaves))
        found = [replace(part, gradients=gradients_of(part.loss, leaves)) for part in parts]
        kept: list[_Part] = []
        terms = {term.name: term for term in self._terms}
        for part in found:
            if are_finite(part.gradients):
                kept.append(part)
            else:
                self._not_finite(terms[part.name], "its gradient is not finite")
        summands = [
            (part.weight, part.gradients)
            for part in [*([base] if base is not None else []), *kept]
            if part.gradients is not None
        ]
        return base, kept, weighted_sum(summands)

    def _described(
        self, base: _Part | None, parts: Sequence[_Part], total: list[torch.Tensor]
    ) -> CustomLossOutput:
        is_here = self._is_tracking and not self._by_parameters

        def norm(part: _Part) -> float | None:
            return norm_of(part.gradients) if is_here else None

        def weighted(part: _Part) -> float | None:
            unweighted = norm(part)
            return None if unweighted is None else part.weight * unweighted

        terms = {
            part.name: RegularizerOutput(
                name=part.name,
                value=part.value,
                weight=part.weight,
                contribution=part.contribution,
                grad_norm=norm(part),
                grad_norm_weighted=weighted(part),
                custom=part.custom,
                is_differentiable=part.loss.requires_grad,
            )
            for part in parts
        }
        regularizer_total = math.fsum(part.contribution for part in parts)
        return CustomLossOutput(
            loss_total=regularizer_total + (0.0 if base is None else base.contribution),
            base_loss=base and BaseLossOutput(base.contribution, weighted(base), base.custom),
            regularizers=terms,
            regularizer_total=regularizer_total,
            total_grad_norm=norm_of(total) if is_here else None,
            skipped=dict(self._skipped),
            partial=dict(self._partial),
        )

    def _tell_ends(
        self,
        outcomes: Sequence[Outcome],
        weights: Sequence[float],
        parts: Mapping[str, _Part],
        failed: BaseException | None = None,
    ) -> None:
        """One stop or exception for every term that was started."""
        for index, (term, outcome) in enumerate(zip(self._terms, outcomes, strict=True)):
            if not outcome.was_started:
                continue
            about = self._about(index, weights)
            reason = self._why_not(term, outcome, failed)
            if reason is not None:
                duration = {"duration_s": outcome.duration_s}
                self._tell("regularizer.exception", duration, {**about, "reason": reason})
                continue
            loss = outcome.result[0][0]
            part = parts.get(term.name)
            value = float(loss.detach())
            measured = {
                "duration_s": outcome.duration_s,
                "value": value,
                "contribution": weights[index] * value,
                "grad_norm": norm_of(part.gradients) if part and self._is_tracking else None,
            }
            self._tell("regularizer.stop", measured, about)

    def _why_not(
        self, term: Regularizer, outcome: Outcome, failed: BaseException | None
    ) -> str | None:
        if isinstance(outcome.error, Cancelled):
            return "cancelled: another regularizer failed"
        if outcome.error is not None:
            return failure_of(term, outcome.error).message
        if isinstance(failed, RegularizerError) and failed.name == term.name:
            return failed.message
        return self._skipped.get(term.name)

    def _about(self, index: int, weights: Sequence[float]) -> dict[str, str | float | bool]:
        return {"name": self._terms[index].name, "weight": weights[index]}

    def _tell(
        self,
        name: str,
        measurements: Mapping[str, float | None],
        metadata: Mapping[str, str | float | bool],
    ) -> None:
        tell(self._options.observer, LossEvent(name, measurements, metadata))


def _gradients_of_sum(
    base: _Part | None, parts: Sequence[_Part], logprobs: list[torch.Tensor]
) -> list[torch.Tensor] | None:
    """The gradient of the total in one backward pass."""
    summands = [*([base] if base is not None else []), *parts]
    losses = [part.weight * part.loss for part in summands if part.loss.requires_grad]
    return gradients_of(sum(losses[1:], losses[0]), logprobs) if losses else None
