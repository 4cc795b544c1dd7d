"""AdamW's settings, by statements that hold exactly whatever the model is."""

from __future__ import annotations

from tinsmith.cli.conformance.gradients import after_step, expect_moved
from tinsmith.cli.conformance.registry import check, expect_close
from tinsmith.cli.conformance.server import Server


@check(
    "A learning rate of 0 changes nothing",
    proves="the rate is the request's, also when it is 0",
    points=2,
)
def does_nothing_at_rate_zero(server: Server) -> None:
    data = server.data(4, seed=1)
    before = server.fork().logprobs(data)
    found = after_step(
        server, lambda model: model.gradient(data), learning_rate=0.0, weight_decay=0.5
    )
    expect_close(found, before, atol=server.tolerance, what="logprobs after the step")


@check(
    "Weight decay is decoupled and times the rate",
    proves="AdamW: learning_rate * weight_decay = 1 without a gradient leaves the bare base model",
    points=2,
)
def decays_weights(server: Server) -> None:
    model, data = server.fork(), server.data(4, seed=1)
    base = server.new_model().logprobs(data)  # a fresh adapter adds nothing
    before = model.logprobs(data)
    expect_moved(server, base, before, "the warm adapter")
    model.gradient(server.scaled(data, 0.0))
    model.step(learning_rate=0.5, weight_decay=2.0)
    expect_close(model.logprobs(data), base, atol=server.tolerance, what="logprobs after it")


@check(
    "grad_clip_norm scales the whole gradient",
    proves="clipping is by the norm over all weights, before Adam; 0 is off",
    points=2,
)
def clips_by_the_norm(server: Server) -> None:
    data = server.data(4, seed=1)
    large = server.scaled(data, 10.0)
    # Clipped to one norm, a gradient and its tenfold are the same gradient.
    norm = {"grad_clip_norm": 0.05, "eps": 1e-3}
    expected = after_step(server, lambda model: model.gradient(data), **norm)
    found = after_step(server, lambda model: model.gradient(large), **norm)
    expect_close(found, expected, atol=server.tolerance, what="logprobs after a clipped step")
    without = after_step(server, lambda model: model.gradient(data), eps=1e-3, grad_clip_norm=0.0)
    expect_moved(server, without, expected, "clipping")


@check(
    "The first step is corrected for its bias",
    proves="beta1 and beta2 cancel in the first step",
    points=2,
)
def corrects_the_bias(server: Server) -> None:
    data = server.data(4, seed=1)
    steps = [
        after_step(server, lambda model: model.gradient(data), beta1=beta1, beta2=beta2)
        for beta1, beta2 in ((0.9, 0.999), (0.3, 0.5), (0.0, 0.0))
    ]
    for found in steps[1:]:
        expect_close(found, steps[0], atol=server.tolerance, what="logprobs after the step")


@check(
    "beta1 is momentum",
    proves="the request's betas reach the optimizer and its moments outlive a step",
    points=2,
)
def has_momentum(server: Server) -> None:
    model, data = server.fork(), server.data(4, seed=1)
    model.gradient(data)
    model.step(beta1=0.9, beta2=0.9)
    once = model.logprobs(data)
    model.gradient(server.scaled(data, 0.0))
    model.step(beta1=0.9, beta2=0.9)
    expect_moved(server, once, model.logprobs(data), "a step on momentum alone")


@check("eps is honoured", proves="the request's epsilon reaches the optimizer")
def honours_eps(server: Server) -> None:
    # With eps = 0+, the first step is the gradient's sign: a hundredfold gradient is the same.
    data = server.data(4, seed=1)
    small = {"eps": 1e-12, "learning_rate": 3e-3}
    expected = after_step(server, lambda model: model.gradient(data), **small)
    large = after_step(server, lambda model: model.gradient(server.scaled(data, 100.0)), **small)
    # Entries whose gradient is rounding have either sign: the comparison is of the bulk.
    expect_close(large.sum(), expected.sum(), atol=0.05 * abs(expected.sum()), what="sum of them")
    damped = after_step(server, lambda model: model.gradient(data), eps=1e6, learning_rate=3e-3)
    expect_moved(server, damped, expected, "a small epsilon against a large one")
