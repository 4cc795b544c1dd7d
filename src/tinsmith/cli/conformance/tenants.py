"""Many models on one base model: none may notice another."""

from __future__ import annotations

import numpy as np

from tinsmith.cli.conformance.losses import closed_form, expect_loss, policy_data
from tinsmith.cli.conformance.registry import check, expect_close
from tinsmith.cli.conformance.server import Server, logprobs_of


@check(
    "One's weight decay moves nobody else",
    proves="an optimizer step touches the weights of its own model only",
    points=3,
)
def keep_their_weights(server: Server) -> None:
    quiet, loud = server.fork(), server.fork()
    data = server.data(4, seed=1)
    before = quiet.logprobs(data)
    for _ in range(3):
        loud.gradient(data)
        loud.step(learning_rate=0.1, weight_decay=0.5)
    expect_close(quiet.logprobs(data), before, atol=server.tolerance, what="the other's logprobs")


@check(
    "A gradient waits untouched by another's step",
    proves="accumulated gradients belong to one model",
    points=2,
)
def keep_their_gradients(server: Server) -> None:
    alone, shared, loud = server.fork(), server.fork(), server.fork()
    data = server.data(4, seed=1)
    alone.gradient(data)
    alone.step()
    shared.gradient(data)
    loud.gradient(server.data(4, seed=8))
    loud.step(learning_rate=0.1, weight_decay=0.5)
    shared.step()
    found, expected = shared.logprobs(data), alone.logprobs(data)
    expect_close(found, expected, atol=server.tolerance, what="logprobs after the step")


@check(
    "Each steps with its own settings",
    proves="rates, betas, decay and clipping of one batch of steps are each request's own",
    points=3,
)
def step_with_their_own_settings(server: Server) -> None:
    data = server.data(4, seed=1)
    settings = [
        {"beta1": 0.1, "weight_decay": 0.0},
        {"beta1": 0.95, "weight_decay": 2.0, "eps": 0.1},
        {"beta2": 0.5, "grad_clip_norm": 0.05},
    ]

    def train(models: list, each_settings: list) -> list:
        pending = []
        for _ in range(2):
            for model, options in zip(models, each_settings, strict=True):
                pending.append(model.trainer.forward_backward(data, "cross_entropy"))
                pending.append(model.submit_step(**options))
        for future in pending:
            server.wait(future)
        return [model.logprobs(data) for model in models]

    together = train([server.fork() for _ in settings], settings)
    for number, options in enumerate(settings):
        (alone,) = train([server.fork()], [options])
        what = f"model {number}: logprobs beside the others"
        expect_close(together[number], alone, atol=server.tolerance, what=what)


@check(
    "Losses of one batch are not mixed up",
    proves="each request is computed with its own loss and settings",
    points=2,
)
def get_their_own_losses(server: Server) -> None:
    cases = [
        ("cross_entropy", {}),
        ("importance_sampling", {}),
        ("ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 1.05}),
        ("ppo", {"clip_low_threshold": 0.95, "clip_high_threshold": 2.0}),
    ]
    models = [server.fork() for _ in cases]
    data = [
        policy_data(server, model, loss_fn)
        for model, (loss_fn, _) in zip(models, cases, strict=True)
    ]
    pending = [
        model.trainer.forward(each, loss_fn, config or None)
        for model, each, (loss_fn, config) in zip(models, data, cases, strict=True)
    ]
    for each, (loss_fn, config), future in zip(data, cases, pending, strict=True):
        output = server.wait(future)
        expect_loss(output, closed_form(loss_fn, each, logprobs_of(output), config), loss_fn)


@check(
    "Batch mates change nothing",
    proves="a datum's result depends on its model only, not on who else is computed with it",
    points=2,
)
def compute_alone_or_together(server: Server) -> None:
    model, others = server.fork(), [server.fork() for _ in range(2)]
    for number, other in enumerate(others):  # the neighbours' weights are other weights
        other.gradient(server.data(4, seed=20 + number))
        other.step()
    data = server.data(4, seed=1)
    alone = model.logprobs(data)
    noise = [other.trainer.forward(server.data(9, seed=9), "cross_entropy") for other in others]
    crowd = data + server.data(9, seed=11, max_length=40)
    found = logprobs_of(server.wait(model.trainer.forward(crowd, "cross_entropy")))
    noise += [other.trainer.forward(server.data(9, seed=9), "cross_entropy") for other in others]
    for future in noise:
        server.wait(future)
    mine = np.concatenate(found[: len(data)])
    expect_close(mine, alone, atol=server.tolerance, what="logprobs in a crowd")
