"""A regularizer is checked when it is made, and a list of them before anything is sent."""

import builtins
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import tests.unit.regularizers.in_module as in_module
from tests.unit.regularizers.support import Returned
from tinsmith.core.errors import ConfigError
from tinsmith.regularizers import (
    KL,
    L1,
    DualAscent,
    KLEstimate,
    Regularizer,
    ablations,
    packed,
)
from tinsmith.regularizers.specs import MAX_REGULARIZERS, checked_regularizers


def total(data: Any, logprobs: list[torch.Tensor]) -> Returned:
    return torch.cat(logprobs).sum(), {}


class Term:
    def compute(self, data: Any, logprobs: Any) -> Any:
        return total(data, logprobs)


def one_argument(data: Any) -> Any: ...


def in_main(data: Any, logprobs: Any) -> Any: ...


in_main.__module__ = "__main__"


def test_names_come_from_the_term_or_the_function() -> None:
    assert Regularizer(L1(), 0.1).name == "l1_sparsity"
    assert Regularizer(total, 0.1).name == "total"
    assert Regularizer(packed(total), 0.1).name == "total"
    assert Regularizer(total, 0.1, name="mine").name == "mine"


def test_a_function_of_your_own_needs_the_whole_batch_unless_you_say_so() -> None:
    assert Regularizer(total, 0.1).reduction == "whole_batch"
    assert Regularizer(total, 0.1, reduction="sum").reduction == "sum"
    assert Regularizer(KL(), 0.1).reduction == "mean"


def test_functions_in_c_and_variadic_ones_are_taken() -> None:
    assert Regularizer(builtins.max, 0.1, "c").call is builtins.max
    assert Regularizer(lambda *args: total(*args), 0.1, "variadic").weight == 0.1


WRONG: list[Callable[[], Any]] = [
    lambda: Regularizer(total, -0.1),
    lambda: Regularizer(total, float("nan")),
    lambda: Regularizer(total, "0.1"),  # type: ignore[arg-type]
    lambda: Regularizer(total, True),
    lambda: Regularizer(total, 0.1, "two words"),
    lambda: Regularizer(total, 0.1, name=3),  # type: ignore[arg-type]
    lambda: Regularizer(lambda data, logprobs: total(data, logprobs), 0.1),
    lambda: Regularizer(3, 0.1, "number"),
    lambda: Regularizer(one_argument, 0.1),
    lambda: Regularizer(total, 0.1, timeout_s=0),
    lambda: Regularizer(total, 0.1, timeout_s=301),
    lambda: Regularizer(total, 0.1, enabled="yes"),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, reduction="max"),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, on_error="ignore"),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, on_nan="zero"),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, run_in="gpu"),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, schedule=0.5),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, state=0.5),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, on_error="partial"),
    lambda: Regularizer(lambda d, x: total(d, x), 0.1, "local", run_in="process"),
    lambda: Regularizer(in_main, 0.1, run_in="process"),
    lambda: checked_regularizers([total]),
    lambda: checked_regularizers([Regularizer(total, 0.1), Regularizer(total, 0.2)]),
    lambda: checked_regularizers([Regularizer(total, 0.1, f"t{i}") for i in range(101)]),
    lambda: packed(one_argument),
    lambda: Regularizer(total, 0.1, distribution=0),
    lambda: Regularizer(total, 0.1, distribution=True),
    lambda: Regularizer(total, 0.1, distribution="all"),  # type: ignore[arg-type]
    lambda: Regularizer(total, 0.1, distribution=2.0),  # type: ignore[arg-type]
    lambda: Regularizer(KLEstimate(), 0.1, distribution="full"),
]


def test_what_is_refused_says_why(golden: Callable[[str, Any], None]) -> None:
    messages = []
    for make in WRONG:
        with pytest.raises(ConfigError) as refused:
            make()
        text = str(refused.value)
        # Where pickle's own words depend on the Python version, ours are kept.
        messages.append(text.split("cannot be sent:")[0] if "cannot be sent" in text else text)
    golden("regularizer_spec_errors.json", messages)


def test_as_many_as_allowed_are_taken() -> None:
    terms = [Regularizer(total, 0.1, f"t{i}") for i in range(MAX_REGULARIZERS)]
    assert checked_regularizers(iter(terms)) == tuple(terms)
    assert checked_regularizers(None) == ()


def test_an_importable_function_may_run_in_a_process() -> None:
    assert Regularizer(in_module.squares, 0.1, run_in="process").run_in == "process"


def test_ablations_switch_each_enabled_term_off_in_turn() -> None:
    a, b, off = (Regularizer(total, 1.0, name) for name in ("a", "b", "off"))
    off = replace(off, enabled=False)
    runs = ablations([a, b, off])
    assert {name: [t.enabled for t in terms] for name, terms in runs.items()} == {
        "": [True, True, False],
        "a": [False, True, False],
        "b": [True, False, False],
    }
    assert [term.name for term in runs["a"]] == ["a", "b", "off"]


def test_terms_are_values() -> None:
    rule = DualAscent(0.1)
    assert Regularizer(L1(), 0.1, state=rule) == Regularizer(L1(), 0.1, state=rule)
