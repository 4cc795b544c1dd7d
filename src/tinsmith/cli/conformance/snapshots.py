"""Saved weights stay what they were, and are what was trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.cli.conformance.gradients import expect_moved
from tinsmith.cli.conformance.registry import CheckFailed, check, expect, expect_close
from tinsmith.cli.conformance.server import Array, Model, Server


def trained_logprobs(model: Model, tokens: list[int]) -> Array:
    """The logprobs of a text's tokens but the first, as the model in training says."""
    length = len(tokens) - 1
    datum = model.server.datum(tokens, weights=np.ones(length, np.float32))
    return model.logprobs([datum])


def sampled_logprobs(server: Server, sampler: Any, tokens: list[int]) -> Array:
    """The same as a sampling client says."""
    prompt = server.tinker.ModelInput.from_ints(tokens)
    found = server.wait(sampler.compute_logprobs(prompt))
    expect(len(found) == len(tokens), f"{len(found)} prompt logprobs of {len(tokens)} tokens")
    return np.array(found[1:], np.float64)


def move(model: Model, *, seed: int = 30) -> None:
    """Train on, visibly."""
    model.gradient(model.server.data(4, seed=seed))
    model.step()


TOKENS = [50, 117, 9, 204, 333, 61, 77, 120]


@check("What is sampled is what was trained", proves="saved weights are the model's own", points=2)
def hold_the_trained_weights(server: Server) -> None:
    model = server.fork()
    expected = trained_logprobs(model, TOKENS)
    path = server.wait(model.trainer.save_weights_for_sampler("equal")).path
    found = sampled_logprobs(server, server.sampler(path), TOKENS)
    expect_close(found, expected, atol=server.tolerance, what="logprobs of the saved weights")


@check(
    "A sampling client keeps its weights while training goes on",
    proves="a named checkpoint is frozen: off-policy corrections see the policy that sampled",
    points=3,
)
def are_frozen(server: Server) -> None:
    model = server.fork()
    path = server.wait(model.trainer.save_weights_for_sampler("frozen")).path
    sampler = server.sampler(path)
    before = sampled_logprobs(server, sampler, TOKENS)
    move(model)
    expect_moved(server, before, trained_logprobs(model, TOKENS), "training on")
    server.wait(model.trainer.save_weights_for_sampler("newer"))
    for what, client in (("the open client", sampler), ("a new client", server.sampler(path))):
        found = sampled_logprobs(server, client, TOKENS)
        expect_close(found, before, atol=server.tolerance, what=f"{what} of the older weights")


@check(
    "A nameless snapshot is frozen too",
    proves="save_weights_and_get_sampling_client hands out the weights of that moment",
    points=2,
)
def without_a_name_are_frozen(server: Server) -> None:
    model = server.fork()
    first = server.wait(model.trainer.save_weights_and_get_sampling_client())
    before = trained_logprobs(model, TOKENS)
    move(model)
    second = server.wait(model.trainer.save_weights_and_get_sampling_client())
    after = trained_logprobs(model, TOKENS)
    expect_moved(server, before, after, "training on")
    for what, client, expected in (("first", first, before), ("second", second, after)):
        found = sampled_logprobs(server, client, TOKENS)
        expect_close(found, expected, atol=server.tolerance, what=f"the {what} snapshot")


@check(
    "Sampling an older checkpoint leaves the training alone",
    proves="the live weights are never a load target of the sampler",
    points=3,
)
def do_not_overwrite_training(server: Server) -> None:
    model = server.fork()
    path = server.wait(model.trainer.save_weights_for_sampler("old")).path
    move(model)
    server.wait(model.trainer.save_weights_for_sampler("new"))
    expected = trained_logprobs(model, TOKENS)
    sampled_logprobs(server, server.sampler(path), TOKENS)
    found = trained_logprobs(model, TOKENS)
    expect_close(found, expected, atol=server.tolerance, what="the training model's logprobs")


def _losses_onward(model: Model, num_steps: int = 3) -> list[float]:
    data, losses = model.server.data(4, seed=31), []
    for _ in range(num_steps):
        losses.append(float(model.gradient(data).metrics["loss:sum"]))
        model.step(learning_rate=1e-2, eps=1e-8)
    return losses


@check(
    "Resuming goes on as if never interrupted",
    proves="a training checkpoint holds the optimizer's moments and its count of steps",
    points=3,
)
def resume_training(server: Server) -> None:
    model = server.fork()
    _losses_onward(model)
    path = server.wait(model.trainer.save_state("middle")).path
    onward = _losses_onward(model)
    create = server.client.create_training_client_from_state_with_optimizer
    resumed = _losses_onward(Model(server, server.wait(create(path))))
    atol = 10 * server.tolerance
    expect_close(resumed, onward, atol=atol, what="losses after resuming")
    restarted = _losses_onward(server.fork(path))
    expect_close(restarted[0], onward[0], atol=atol, what="the first loss without the optimizer")
    expect(
        max(abs(a - b) for a, b in zip(restarted, onward, strict=True)) > 2 * atol,
        "loading without the optimizer kept the optimizer",
    )


@check("Older training checkpoints stay what they were", proves="one may branch from any of them")
def of_training_stay(server: Server) -> None:
    model, data = server.fork(), server.data(4, seed=1)
    path = server.wait(model.trainer.save_state("branch")).path
    before = model.logprobs(data)
    move(model)
    server.wait(model.trainer.save_state("later"))
    after = model.logprobs(data)
    found = server.fork(path).logprobs(data)
    expect_close(found, before, atol=server.tolerance, what="logprobs of the branch")
    expect_close(model.logprobs(data), after, atol=server.tolerance, what="of the trunk")


@check("A name is not written over by chance", proves="a checkpoint is lost only when one asks")
def are_not_overwritten(server: Server) -> None:
    model, data = server.fork(), server.data(4, seed=1)
    path = server.wait(model.trainer.save_state("once")).path
    before = model.logprobs(data)
    move(model)
    try:
        server.wait(model.trainer.save_state("once"))
    except server.tinker.TinkerError:
        pass
    else:
        raise CheckFailed("the same name was accepted twice without overwrite=True")
    found = server.fork(path).logprobs(data)
    expect_close(found, before, atol=server.tolerance, what="logprobs of the first save")
    path = server.wait(model.trainer.save_state("once", overwrite=True)).path
    found = server.fork(path).logprobs(data)
    expect_close(found, model.logprobs(data), atol=server.tolerance, what="after overwrite=True")


@check("Checkpoints are listed and can be deleted", proves="a run's files can be looked after")
def are_listed_and_deleted(server: Server) -> None:
    model = server.fork()
    path = str(server.wait(model.trainer.save_state("listed")).path)
    listing = f"training_runs/{model.trainer.model_id}/checkpoints"

    def listed() -> list[str]:
        status, answer = server.wire.get(listing)
        expect(status == 200, f"{listing}: answered {status}")
        return [each["tinker_path"] for each in answer["checkpoints"]]

    expect(path in listed(), f"{path} is not listed")
    checkpoint_id = path.removeprefix("tinker://").split("/", 1)[1]
    status = server.wire.delete(f"{listing}/{checkpoint_id}")
    expect(200 <= status < 300, f"DELETE {checkpoint_id}: answered {status}")
    expect(path not in listed(), f"{path} is listed after it was deleted")
