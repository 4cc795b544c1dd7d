"""Gradients as the protocol shows them: through the logprobs after an optimizer step.

A step with a large epsilon moves weights by g / (|g| + eps), so that the same logprobs afterwards
mean the same gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from tinsmith.cli.conformance.losses import CASES, closed_form, policy_data, several_targets
from tinsmith.cli.conformance.registry import Check, add, check, expect, expect_close
from tinsmith.cli.conformance.server import (
    VISIBLE_FACTOR,
    Array,
    Model,
    Server,
    inputs_of,
    logprobs_of,
)


def after_step(
    server: Server, give_gradient: Callable[[Model], object], **settings: float
) -> Array:
    """The logprobs of fixed data after a gradient and one step from the warm state."""
    model = server.fork()
    give_gradient(model)
    model.step(**settings)
    return model.logprobs(server.data(4, seed=1))


def expect_moved(server: Server, before: Array, after: Array, what: str) -> None:
    """Fail unless logprobs differ by more than rounding."""
    moved = float(np.abs(after - before).max())
    limit = VISIBLE_FACTOR * server.tolerance / 2
    expect(moved > limit, f"{what}: logprobs moved by {moved:.2g} only")


def _check_gradient(server: Server, *, loss_fn: str, config: Mapping[str, float]) -> None:
    """A loss has the gradient of the cross entropy whose weights are its closed derivative."""
    model = server.fork()
    data = policy_data(server, model, loss_fn)
    output = model.gradient(data, loss_fn, config)
    model.step()
    terms = closed_form(loss_fn, data, logprobs_of(output), config)
    weighted = server.weighted(data, [each.weights for each in terms])
    twin = server.fork()
    before = twin.logprobs(weighted)
    twin.gradient(weighted)
    twin.step()
    expected = twin.logprobs(weighted)
    expect_moved(server, before, expected, "the step of the equal cross entropy")
    found = model.logprobs(weighted)
    expect_close(found, expected, atol=server.tolerance, what="logprobs after the step")


for _name, _loss_fn, _config in CASES[1:]:
    add(
        Check(
            f"gradients.{_name}",
            f"Gradient of {_loss_fn} "
            f"{' '.join(f'{key}={value}' for key, value in _config.items())}".strip(),
            "weights move as by the closed derivative: ratios and clips are in the gradient",
            2,
            functools.partial(_check_gradient, loss_fn=_loss_fn, config=_config),
        )
    )


@check(
    "Training makes data likelier",
    proves="the sign: minimizing cross entropy raises the logprobs of its targets",
)
def lower_the_loss(server: Server) -> None:
    model = server.new_model()
    plain = server.data(4, seed=4)
    data = server.weighted(plain, [np.ones_like(inputs_of(each)["weights"]) for each in plain])
    losses = []
    for _ in range(4):
        losses.append(model.gradient(data).metrics["loss:sum"])
        model.step(learning_rate=5e-3, eps=1e-8)
    losses.append(model.run(data).metrics["loss:sum"])
    expect(losses[-1] < losses[0], f"after 4 steps the loss went from {losses[0]} to {losses[-1]}")


@check(
    "Two calls add up to one",
    proves="gradient accumulation: batches larger than a request mean what they say",
    points=3,
)
def accumulate(server: Server) -> None:
    data = server.data(4, seed=1)
    whole = after_step(server, lambda model: model.gradient(data))

    def in_parts(model: Model) -> None:
        model.gradient(data[:1])
        model.gradient(data[1:])

    found = after_step(server, in_parts)
    expect_close(found, whole, atol=server.tolerance, what="logprobs after the step")
    first = after_step(server, lambda model: model.gradient(data[:1]))
    expect_moved(server, first, whole, "the second call's gradient")


@check(
    "A step spends the gradient",
    proves="no batch counts twice: with no momentum, a second step without a gradient is none",
    points=2,
)
def are_spent_by_a_step(server: Server) -> None:
    model, data = server.fork(), server.data(4, seed=1)
    model.gradient(data)
    model.step(beta1=0.0)
    once = model.logprobs(data)
    model.gradient(server.scaled(data, 0.0))
    model.step(beta1=0.0)
    expect_close(model.logprobs(data), once, atol=server.tolerance, what="logprobs after it")


@check(
    "forward adds no gradient",
    proves="evaluating between steps does not train",
    points=2,
)
def are_not_made_by_forward(server: Server) -> None:
    data, other = server.data(4, seed=1), server.data(4, seed=7)
    alone = after_step(server, lambda model: model.gradient(data))

    def with_forward(model: Model) -> None:
        model.run(other)
        model.gradient(data)
        model.run(other)

    found = after_step(server, with_forward)
    expect_close(found, alone, atol=server.tolerance, what="logprobs after the step")


@check(
    "Gradients are sums, not means",
    proves="three copies, or three times the weights, are three times the gradient",
    points=3,
)
def are_sums(server: Server) -> None:
    # g / (|g| + eps) is unchanged when gradient and epsilon both grow threefold.
    data = server.data(4, seed=1)
    once = after_step(server, lambda model: model.gradient(data))
    unscaled = after_step(server, lambda model: model.gradient(data), eps=3.0)
    expect_moved(server, unscaled, once, "a threefold epsilon")
    for what, changed in (("3 copies", data * 3), ("3 * weights", server.scaled(data, 3.0))):
        found = after_step(server, lambda model, data=changed: model.gradient(data), eps=3.0)
        expect_close(found, once, atol=server.tolerance, what=f"{what}: logprobs after the step")


@check(
    "Several targets have the gradient of their sum",
    proves="distillation trains on every target, dense and sparse",
    points=2,
)
def of_several_targets(server: Server) -> None:
    dense, listed, singles = several_targets(server)
    expected = after_step(server, lambda model: model.gradient(singles))
    for what, datum in (("dense", dense), ("sparse", listed)):
        found = after_step(server, lambda model, datum=datum: model.gradient([datum]))
        expect_close(found, expected, atol=server.tolerance, what=f"{what}: logprobs after")


@check(
    "Negative weights are taken as they are",
    proves="custom losses, which arrive as weights of any sign, have their true gradient",
    points=2,
)
def of_negative_sums(server: Server) -> None:
    data = server.data(4, seed=1)
    before = server.fork().logprobs(data)

    def cancel(model: Model) -> None:
        model.gradient(data)
        model.gradient(server.scaled(data, -1.0))

    found = after_step(server, cancel)
    expect_close(found, before, atol=server.tolerance, what="logprobs after w and -w")
