"""What terms remember between optimizer steps: `RegularizerState`.

A training client owns one. An evaluation reads it and leaves an observation; the optimizer step
that follows moves it once, however many evaluations there were. `state_dict` is JSON.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinsmith.core.errors import ConfigError, DataError
from tinsmith.regularizers.adaptive import AdaptiveWeight
from tinsmith.regularizers.options import CustomLossOptions
from tinsmith.regularizers.outputs import CustomLossOutput
from tinsmith.regularizers.schedules import scheduled_factor
from tinsmith.regularizers.specs import Regularizer

__all__ = ["RegularizerState"]


@dataclass
class _Observed:
    """A term since the last optimizer step."""

    rule: AdaptiveWeight | None
    is_mean: bool
    value: float = 0.0
    """Sum of values, of a mean's values times shares."""
    share: float = 0.0

    @property
    def step_value(self) -> float:
        return self.value / self.share if self.is_mean else self.value


class RegularizerState:
    """Steps done and the states of adaptive weights, by the term's name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step = 0
        self._rules: dict[str, dict[str, Any]] = {}
        self._observed: dict[str, _Observed] = {}
        self._square_norm: float | None = 0.0
        self._parameter_norm: float | None = None
        self._serial = 0
        """Of the newest evaluation or optimizer step."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._step

    @property
    def accumulated_grad_norm(self) -> float | None:
        """Norm of the gradient that all calls since the last optimizer step made.

        By the logprobs, of which each call has its own, the root of the sum of the squared norms;
        None if a call did not track its norm. With `track_grad_norms="parameters"` the norm of what
        the service has accumulated, once the answer of the newest call is there.
        """
        with self._lock:
            if self._square_norm is None:
                return self._parameter_norm
            return math.sqrt(self._square_norm)

    def weight_of(self, term: Regularizer, epoch: float | None) -> float:
        """A term's weight now, with schedule and rule."""
        weight = float(term.weight)
        if term.schedule is not None:
            weight *= scheduled_factor(term.schedule, self._step, epoch)
        if term.state is not None:
            weight *= term.state.factor(self._rule_state(term.name, term.state))
        return weight

    def observe(
        self,
        terms: tuple[Regularizer, ...],
        output: CustomLossOutput,
        options: CustomLossOptions,
    ) -> int:
        """Take note of an evaluation whose gradient has been sent; gives its serial number."""
        with self._lock:
            self._serial += 1
            self._parameter_norm = None
            for term in terms:
                seen = output.regularizers.get(term.name)
                if seen is None:
                    continue
                is_mean = term.reduction != "sum"
                observed = self._observed.setdefault(term.name, _Observed(term.state, is_mean))
                observed.value += seen.value * (options.share if is_mean else 1.0)
                observed.share += options.share
            if output.total_grad_norm is None or self._square_norm is None:
                self._square_norm = None
            else:
                self._square_norm += output.total_grad_norm**2
            return self._serial

    def note_accumulated(self, serial: int, norm: float | None) -> None:
        """Take note of the norm by the parameters up to an evaluation, if it is the newest one."""
        with self._lock:
            if serial == self._serial:
                self._parameter_norm = norm

    def advance(self) -> None:
        """Go on to the next optimizer step: every observed rule moves once."""
        with self._lock:
            for name, observed in self._observed.items():
                if observed.rule is not None:
                    before = self._rule_state(name, observed.rule)
                    after = observed.rule.update(before, observed.step_value)
                    self._rules[name] = {"kind": observed.rule.kind, **after}
            self._start_afresh()
            self._step += 1

    def forget(self, name: str) -> None:
        """Start the state of a term afresh."""
        with self._lock:
            self._rules.pop(name, None)
            self._observed.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, as JSON values.

        What was observed since the last optimizer step is not part of it, as the gradients that it
        belongs to are not part of a checkpoint.
        """
        with self._lock:
            return {
                "step": self._step,
                "terms": {name: dict(state) for name, state in self._rules.items()},
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; nothing changes if it cannot be read.

        Raises:
            DataError: it is not of that form.
        """
        if not _is_state(state):
            raise DataError(
                "regularizer state: must be {'step': 3, 'terms': {'kl': {'kind': ..., ...}}}",
                field="regularizers",
                hint="pass what state_dict() returned",
            )
        with self._lock:
            self._step = state["step"]
            self._rules = {str(name): dict(rule) for name, rule in state["terms"].items()}
            self._start_afresh()

    def _start_afresh(self) -> None:
        """Nothing has been seen since the last optimizer step."""
        self._observed = {}
        self._square_norm, self._parameter_norm = 0.0, None
        self._serial += 1

    def _rule_state(self, name: str, rule: AdaptiveWeight) -> dict[str, float]:
        kept = self._rules.get(name)
        if kept is None:
            return dict(rule.init())
        numbers = {key: value for key, value in kept.items() if key != "kind"}
        if kept["kind"] != rule.kind or set(numbers) != set(rule.init()):
            raise ConfigError(
                f"regularizers[{name!r}]: its state is of rule {kept['kind']!r}, and the term now "
                f"has {rule.kind!r}",
                field="state",
                hint=f"start it afresh: regularizer_state.forget({name!r})",
            )
        return numbers


def _is_state(state: Mapping[str, Any]) -> bool:
    step, terms = state.get("step"), state.get("terms")
    if not isinstance(step, int) or step < 0 or not isinstance(terms, Mapping):
        return False
    return all(map(_is_rule_state, terms.values()))


def _is_rule_state(value: object) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        return False
    return all(isinstance(v, (int, float)) for key, v in value.items() if key != "kind")
