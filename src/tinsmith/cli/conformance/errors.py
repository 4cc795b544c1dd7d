"""Bad input is the caller's mistake: refused with a reason, never a 5xx, and harmless."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinsmith.cli.conformance.delivery import is_refused, raw_logprobs
from tinsmith.cli.conformance.registry import CheckFailed, check, expect, expect_close
from tinsmith.cli.conformance.server import Server, random_tokens
from tinsmith.cli.conformance.wire import PROTOBUF
from tinsmith.types.codec import encode_forward_backward_request
from tinsmith.types.proto import tinsmith_pb2

HUGE_TOKEN = 2**30


def expect_refused(server: Server, submission: tuple[int, Any], what: str) -> None:
    """Fail unless a request was refused with a reason."""
    status, answer = submission
    expect(status < 500, f"{what}: answered {status}")
    expect(is_refused(server, submission), f"{what}: accepted ({status}: {str(answer)[:120]})")
    expect(answer, f"{what}: {status} without a body")


@check("Bad training requests are refused", proves="bad data is named, not trained on", points=3)
def refuse_bad_training(server: Server) -> None:
    from tinsmith.types import Datum, ModelInput

    def datum(tokens: list[int], targets: list[int], weights: Any) -> Datum:
        inputs = {"target_tokens": targets, "weights": np.asarray(weights, np.float32)}
        return Datum(ModelInput.from_ints(tokens), inputs)

    good = datum([5, 6, 7], [6, 7, 8], [1, 1, 1])
    unknown = Datum(good.model_input, {**good.loss_fn_inputs, "surprise": np.ones(3, np.float32)})
    cases = {
        "no datum at all": ([], "cross_entropy", {}),
        "a token outside the vocabulary": (
            [datum([5, HUGE_TOKEN, 7], [6, 7, 8], [1, 1, 1])],
            "cross_entropy",
            {},
        ),
        "a target outside the vocabulary": (
            [datum([5, 6, 7], [6, HUGE_TOKEN, 8], [1, 1, 1])],
            "cross_entropy",
            {},
        ),
        "fewer targets than tokens": ([datum([5, 6, 7], [6, 7], [1, 1])], "cross_entropy", {}),
        "fewer weights than targets": ([datum([5, 6, 7], [6, 7, 8], [1, 1])], "cross_entropy", {}),
        "a weight that is NaN": (
            [datum([5, 6, 7], [6, 7, 8], [1, np.nan, 1])],
            "cross_entropy",
            {},
        ),
        "a loss that lacks its inputs": ([good], "importance_sampling", {}),
        "an unknown loss": ([good], "no_such_loss", {}),
        "an unknown input": ([unknown], "cross_entropy", {}),
        "an unknown setting": ([good], "cross_entropy", {"surprise": 1.0}),
    }
    model_id = server.wire.load_model(server.warm_state)
    before = raw_logprobs(server, model_id, 1)
    for number, (what, (data, loss_fn, config)) in enumerate(cases.items()):
        body = encode_forward_backward_request(
            model_id, number + 2, data, loss_fn, config, forward_only=False
        )
        expect_refused(server, server.wire.send("forward_backward", body, PROTOBUF), what)
    negative = tinsmith_pb2.ForwardBackwardRequest.FromString(
        encode_forward_backward_request(
            model_id, len(cases) + 2, [good], "cross_entropy", {}, forward_only=False
        )
    )
    tokens = struct.pack("<3i", 5, -6, 7)  # our own codec would not write it
    negative.data[0].model_input[0].encoded_text.tokens = tokens
    submission = server.wire.send("forward_backward", negative.SerializeToString(), PROTOBUF)
    expect_refused(server, submission, "a negative token")
    found = raw_logprobs(server, model_id, len(cases) + 3)
    expect_close(found, before, atol=server.tolerance, what="logprobs after the bad requests")


@check("Bad optimizer settings are refused", proves="a slip of the finger ruins no model", points=2)
def refuse_bad_steps(server: Server) -> None:
    model_id = server.wire.load_model(server.warm_state)
    before = raw_logprobs(server, model_id, 1)
    cases: list[Mapping[str, float]] = [
        {"learning_rate": -1.0},
        {"learning_rate": 0.1, "beta1": 1.5},
        {"learning_rate": 0.1, "eps": -1.0},
        {"learning_rate": 0.1, "weight_decay": -1.0},
        {"learning_rate": 0.1, "grad_clip_norm": -1.0},
    ]
    for number, settings in enumerate(cases):
        submission = server.wire.optim_step(model_id, number + 2, **settings)
        expect_refused(server, submission, f"optim_step with {dict(settings)}")
    found = raw_logprobs(server, model_id, len(cases) + 2)
    expect_close(found, before, atol=server.tolerance, what="logprobs after the bad requests")


@check("Bad samples are refused", proves="no option outside its range is guessed at", points=2)
def refuse_bad_samples(server: Server) -> None:
    sampler = server.wire.create_sampler(base_model=server.base_model)
    good = {"max_tokens": 2}
    cases: dict[str, tuple[list[int], Mapping[str, object], Mapping[str, object]]] = {
        "an empty prompt": ([], good, {}),
        "a token outside the vocabulary": ([5, HUGE_TOKEN], good, {}),
        "temperature=-1": ([5], {**good, "temperature": -1.0}, {}),
        "top_p=2": ([5], {**good, "top_p": 2.0}, {}),
        "max_tokens=-1": ([5], {"max_tokens": -1}, {}),
        "num_samples=0": ([5], good, {"num_samples": 0}),
        "a text as seed": ([5], {**good, "seed": "eleven"}, {}),
        "max_tokens=10**12": ([5], {"max_tokens": 10**12}, {}),
    }
    for number, (what, (prompt, params, options)) in enumerate(cases.items()):
        submission = server.wire.asample(sampler, number, prompt, params, **options)
        expect_refused(server, submission, what)


@check("What does not exist is named", proves="a typing error is found by its message", points=2)
def name_what_is_missing(server: Server) -> None:
    wire, session_id = server.wire, server.wire.session_id
    run = f"{session_id}:train:0"
    lora: dict[str, object] = {"lora_config": {"rank": 4}, "type": "create_model"}

    def create(base_model: str, **changes: object) -> tuple[int, Any]:
        body = {"session_id": session_id, "model_seq_id": wire.next_number(), **lora, **changes}
        return wire.post("create_model", base_model=base_model, **body)

    cases = {
        "an unknown base model": create("nobody/no-such-model"),
        "an unknown session": create(server.base_model, session_id="none"),
        "rank=0": create(server.base_model, lora_config={"rank": 0}),
        "rank=-1": create(server.base_model, lora_config={"rank": -1}),
        "an unknown model": wire.optim_step("none:train:0", 1, learning_rate=0.1, eps=1e-8),
        "an unknown checkpoint": wire.post(
            "load_weights",
            session_id=session_id,
            model_seq_id=wire.next_number(),
            path=f"tinker://{run}/weights/no-such-name",
            optimizer=False,
            type="load_weights",
        ),
        "an unknown sampler": wire.asample("none", 0, [5], {"max_tokens": 1}),
        "an unknown future": wire.post("retrieve_future", request_id="none"),
    }
    for what, submission in cases.items():
        expect_refused(server, submission, what)


@check("Bodies that are no message are refused", proves="garbage is answered, not crashed on")
def refuse_garbage(server: Server) -> None:
    model_id = server.wire.load_model(server.warm_state)
    before = raw_logprobs(server, model_id, 1)
    good = json.dumps({"model_id": model_id, "seq_id": 2, "type": "optim_step"}).encode()
    cases = [
        ("forward_backward", b"\xff" * 40, PROTOBUF),
        ("forward_backward", b"", PROTOBUF),
        ("optim_step", b"", "application/json"),
        ("optim_step", b"{", "application/json"),
        ("optim_step", b"[]", "application/json"),
        ("optim_step", good[:-10], "application/json"),
        ("asample", b"[" * 10_000, "application/json"),
        ("create_model", b"\xff\xfe", "application/json"),
        ("create_session", b'"text"', "application/json"),
    ]
    for endpoint, content, media_type in cases:
        submission = server.wire.send(endpoint, content, media_type)
        expect_refused(server, submission, f"{endpoint} of {content[:12]!r}")
    # No number could be read from any of these, so that 2 is still the next one.
    found = raw_logprobs(server, model_id, 2)
    expect_close(found, before, atol=server.tolerance, what="logprobs after the garbage")


@check(
    "The error reaches the user of the official client",
    proves="a bad call raises at once, with the reason in its text",
)
def are_raised_by_the_client(server: Server) -> None:
    model = server.fork()
    tokens = random_tokens(4, seed=1)
    tokens[1] = HUGE_TOKEN
    bad = server.datum([*tokens, 5], weights=np.ones(4, np.float32))
    try:
        model.run([bad])
    except server.tinker.TinkerError as error:
        expect(str(HUGE_TOKEN) in str(error), f"the message does not name the token: {error}")
    else:
        raise CheckFailed("a token outside the vocabulary was accepted")
