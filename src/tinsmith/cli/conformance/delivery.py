"""Requests that arrive twice, late or out of order are done once, in their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.cli.conformance.gradients import after_step
from tinsmith.cli.conformance.registry import CheckFailed, check, expect, expect_close
from tinsmith.cli.conformance.server import EPS, Array, Server, random_tokens


def accept(submission: tuple[int, Any], what: str) -> dict[str, Any]:
    """The promise of a submission that must be accepted."""
    status, answer = submission
    expect(status == 200, f"{what}: answered {status}: {str(answer)[:200]}")
    return answer


def raw_logprobs(server: Server, model_id: str, seq_id: int) -> Array:
    """The logprobs of the fixed data, by a raw forward."""
    submission = server.wire.forward_backward(
        model_id, seq_id, server.data(4, seed=1), forward_only=True
    )
    output = server.wire.output(accept(submission, "forward"))
    found = [each["logprobs"].to_numpy().ravel() for each in output.loss_fn_outputs]
    return np.concatenate(found).astype(np.float64)


def is_refused(server: Server, submission: tuple[int, Any]) -> bool:
    """Whether a request was refused, at once or by a future that failed with category user."""
    status, answer = submission
    if 400 <= status < 500:
        return True
    if status != 200 or not isinstance(answer, dict) or "request_id" not in answer:
        return False
    result = server.wire.retrieve(str(answer["request_id"]))
    return isinstance(result, dict) and "error" in result and result.get("category") == "user"


@check(
    "A training request sent twice is done once",
    proves="a retry after a lost answer adds no second gradient and no second step",
    points=3,
)
def of_repeated_training(server: Server) -> None:
    data = server.data(4, seed=1)
    expected = after_step(server, lambda model: model.gradient(data))
    model_id = server.wire.load_model(server.warm_state)
    step = {"learning_rate": server.learning_rate, "eps": EPS}
    gradients = [server.wire.forward_backward(model_id, 1, data) for _ in range(2)]
    steps = [server.wire.optim_step(model_id, 2, **step) for _ in range(2)]
    gradients.append(server.wire.forward_backward(model_id, 1, data))
    losses = [
        server.wire.output(accept(each, "a repeated forward_backward")).metrics["loss:sum"]
        for each in gradients
    ]
    expect(len(set(losses)) == 1, f"one request has the losses {losses}")
    for each in steps:
        server.wire.result(accept(each, "a repeated optim_step"))
    found = raw_logprobs(server, model_id, 3)
    expect_close(found, expected, atol=server.tolerance, what="logprobs after the step")


@check(
    "A number taken by another request is refused",
    proves="two writers of one model are told, instead of one of them being ignored",
    points=2,
)
def of_another_content(server: Server) -> None:
    data = server.data(4, seed=1)
    expected = after_step(server, lambda model: model.gradient(data))
    model_id = server.wire.load_model(server.warm_state)
    accept(server.wire.forward_backward(model_id, 1, data), "forward_backward")
    other = server.wire.forward_backward(model_id, 1, server.data(4, seed=8))
    expect(is_refused(server, other), f"different content was answered {other[0]}: {other[1]}")
    step = {"learning_rate": server.learning_rate, "eps": EPS}
    server.wire.result(accept(server.wire.optim_step(model_id, 2, **step), "optim_step"))
    found = raw_logprobs(server, model_id, 3)
    expect_close(found, expected, atol=server.tolerance, what="logprobs after the first content")


@check(
    "Late and early arrivals are executed by their numbers",
    proves="chunks that overtake each other and steps sent ahead do no harm",
    points=3,
)
def out_of_order(server: Server) -> None:
    data = server.data(4, seed=1)
    expected = after_step(server, lambda model: model.gradient(data))
    model_id = server.wire.load_model(server.warm_state)
    step = {"learning_rate": server.learning_rate, "eps": EPS}
    stepped = accept(server.wire.optim_step(model_id, 3, **step), "optim_step sent first")
    second = accept(server.wire.forward_backward(model_id, 2, data[2:]), "the second chunk")
    first = accept(server.wire.forward_backward(model_id, 1, data[:2]), "the first chunk")
    for promise in (first, second):
        server.wire.output(promise)
    server.wire.result(stepped)
    found = raw_logprobs(server, model_id, 4)
    expect_close(found, expected, atol=server.tolerance, what="logprobs after the step")


@check(
    "A step sent before its gradient is awaited follows it",
    proves="pipelined loops train as patient ones do",
    points=2,
)
def of_pipelined_steps(server: Server) -> None:
    patient, hasty = server.fork(), server.fork()
    batches = [server.data(3, seed=40 + number) for number in range(3)]
    losses = []
    for batch in batches:
        losses.append(patient.gradient(batch).metrics["loss:sum"])
        patient.step(learning_rate=1e-2, eps=1e-8)
    pending = []
    for batch in batches:
        pending.append(hasty.trainer.forward_backward(batch, "cross_entropy"))
        hasty.submit_step(learning_rate=1e-2, eps=1e-8)
    found = [server.wait(future).metrics["loss:sum"] for future in pending]
    expect_close(found, losses, atol=10 * server.tolerance, what="losses of the pipelined loop")


@check("A result may be fetched again", proves="a lost answer of a long poll loses nothing")
def of_results_asked_twice(server: Server) -> None:
    model_id = server.wire.load_model(server.warm_state)
    submission = server.wire.forward_backward(model_id, 1, server.data(2, seed=1))
    promise = accept(submission, "forward_backward")
    first, second = server.wire.output(promise), server.wire.output(promise)
    expect(
        first.metrics["loss:sum"] == second.metrics["loss:sum"],
        "the same future had two results",
    )


@check("A model created twice is one", proves="a retried create_model leaves no orphan")
def of_repeated_creation(server: Server) -> None:
    body: dict[str, object] = {
        "session_id": server.wire.session_id,
        "model_seq_id": server.wire.next_number(),
        "base_model": server.base_model,
        "lora_config": {"rank": 4},
        "type": "create_model",
    }
    ids = [server.wire.result(server.wire.accepted("create_model", **body)) for _ in range(2)]
    expect(ids[0]["model_id"] == ids[1]["model_id"], f"one request made two models: {ids}")


@check("A sample sent twice is drawn once", proves="a retried sample is the same tokens", points=2)
def of_repeated_samples(server: Server) -> None:
    sampler = server.wire.create_sampler(base_model=server.base_model)
    found = []
    for _ in range(2):
        submission = server.wire.asample(
            sampler, 7, random_tokens(6, seed=1), {"max_tokens": 12, "temperature": 1.5, "stop": []}
        )
        promise = accept(submission, "asample")
        found.append(list(server.wire.samples(promise).sequences[0].tokens))
    expect(found[0] == found[1], "one sample, sent twice, was drawn twice")


@check(
    "A refused request does not stop its model",
    proves="after an error the same client goes on",
    points=2,
)
def of_what_follows_a_refusal(server: Server) -> None:
    model = server.fork()
    data = server.data(2, seed=1)
    expected = model.run(data).metrics["loss:sum"]
    try:
        model.run(data, "no_such_loss")
    except server.tinker.TinkerError:
        pass
    else:
        raise CheckFailed("loss_fn='no_such_loss' was accepted")
    found = model.run(data).metrics["loss:sum"]
    expect_close(found, expected, atol=server.tolerance, what="the next request's loss")
