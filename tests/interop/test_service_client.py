"""ServiceClient of the official package, and how failures reach its user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import Connect, Warm
from tests.interop.official_data import random_data

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """A failure must reach the user quickly: clients wait for telemetry before they raise."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def test_capabilities(client: tinker.ServiceClient) -> None:
    (model,) = client.get_server_capabilities().supported_models
    assert model.model_name == BASE_MODEL
    assert (model.max_context_length or 0) > 0


def test_a_closed_client_ends_its_session(connect: Connect) -> None:
    with connect(user_metadata={"who": "closed"}, project_id="interop") as opened:
        trainer = opened.create_lora_training_client(BASE_MODEL, rank=2).result()
        trainer.forward(random_data(1, seed=1), "cross_entropy").result()
    with pytest.raises(RuntimeError, match="closed"):
        opened.create_lora_training_client(BASE_MODEL, rank=2).result()
    explicit = connect()
    explicit.create_sampling_client(base_model=BASE_MODEL).result()
    with soon():
        explicit.close("errored", detail="a test").result()
        explicit.close("success").result()


def test_a_wrong_key_is_refused(connect: Connect) -> None:
    with soon(), pytest.raises(tinker.AuthenticationError, match="X-API-Key"):
        connect(api_key="tml-wrong").create_lora_training_client(BASE_MODEL).result()


def test_refusals_at_creation_name_the_field(client: tinker.ServiceClient) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: client.create_lora_training_client("tinsmith/tinny").result(), BASE_MODEL),
        (lambda: client.create_lora_training_client(BASE_MODEL, rank=0).result(), "rank"),
        (lambda: client.create_lora_training_client(BASE_MODEL, rank=10**6).result(), "rank"),
        (lambda: client.create_sampling_client(base_model="none/such").result(), "base_model"),
        (
            lambda: client.create_sampling_client(
                model_path="tinker://no:train:0/sampler_weights/such"
            ).result(),
            "such",
        ),
        (
            lambda: client.create_training_client_from_state(
                "tinker://no:train:0/weights/such"
            ).result(),
            "such",
        ),
    ]
    for call, word in cases:
        with soon(), pytest.raises((tinker.APIStatusError, tinker.RequestFailedError)) as caught:
            call()
        assert word in str(caught.value)
        if isinstance(caught.value, tinker.APIStatusError):
            assert 400 <= caught.value.status_code < 500


def test_refused_training_requests_name_the_field_and_the_next_one_works(warm: Warm) -> None:
    trainer = warm.fork()
    (good,) = random_data(1, seed=2)
    targets = good.loss_fn_inputs["target_tokens"]
    short = tinker.Datum(good.model_input, {"target_tokens": targets.data[:-1], "weights": [1.0]})
    nothing = tinker.Datum(good.model_input, {"target_tokens": targets})
    nan = tinker.Datum(
        good.model_input,
        {"target_tokens": targets, "weights": [float("nan")] * len(targets.data)},
    )
    image = tinker.types.ImageChunk(data=b"x", format="png", expected_tokens=2)
    seen = tinker.Datum(tinker.ModelInput(chunks=[image]), good.loss_fn_inputs)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: trainer.forward_backward([good], "cross_entorpy").result(), "cross_entropy"),
        (lambda: trainer.forward_backward([short], "cross_entropy").result(), "target_tokens"),
        (lambda: trainer.forward_backward([nothing], "cross_entropy").result(), "weights"),
        (lambda: trainer.forward_backward([nan], "cross_entropy").result(), "weights"),
        (lambda: trainer.forward_backward([seen], "cross_entropy").result(), "model_input"),
        (lambda: trainer.forward_backward([good], "ppo").result(), "loss_fn_inputs"),
        (
            lambda: trainer.forward_backward([good], "cross_entropy", {"beta": 1.0}).result(),
            "beta",
        ),
        (
            lambda: trainer.optim_step(tinker.AdamParams(learning_rate=-1.0)).result(),
            "learning_rate",
        ),
        (lambda: trainer.save_state("a/b").result(), "path"),
        (lambda: trainer.save_weights_for_sampler("..").result(), "path"),
    ]
    for call, word in cases:
        with soon(), pytest.raises((tinker.BadRequestError, tinker.RequestFailedError)) as caught:
            call()
        assert word in str(caught.value)
        if isinstance(caught.value, tinker.RequestFailedError):
            assert caught.value.category == tinker.types.RequestErrorCategory.User
    step = trainer.forward_backward([good], "cross_entropy")
    trainer.optim_step(tinker.AdamParams()).result()
    assert step.result().metrics["loss:sum"] == pytest.approx(
        warm.twin().loss([good], "cross_entropy").item(), abs=1e-3
    )


def test_refused_samples_name_the_field(warm: Warm) -> None:
    sampler = warm.client.create_sampling_client(base_model=BASE_MODEL).result()
    prompt = tinker.ModelInput.from_ints([5, 6, 7])
    sampled = tinker.SamplingParams(max_tokens=2)

    def sample(text: tinker.ModelInput = prompt, **options: object) -> Callable[[], object]:
        given = tinker.SamplingParams(**{"max_tokens": 2, **options})  # type: ignore[arg-type]
        return lambda: sampler.sample(text, 1, given).result()

    cases: list[tuple[Callable[[], object], str]] = [
        (sample(tinker.ModelInput.from_ints([10**6])), "prompt"),
        (sample(tinker.ModelInput.from_ints([-1])), "prompt"),
        (sample(tinker.ModelInput.from_ints([])), "prompt"),
        (sample(tinker.ModelInput.from_ints([7] * 100_000)), "prompt"),
        (sample(max_tokens=0), "max_tokens"),
        (sample(temperature=-1.0), "temperature"),
        (sample(top_p=2.0), "top_p"),
        (sample(top_k=-7), "top_k"),
        (lambda: sampler.sample(prompt, 0, sampled).result(), "num_samples"),
    ]
    for call, word in cases:
        with soon(), pytest.raises((tinker.BadRequestError, tinker.RequestFailedError)) as caught:
            call()
        assert word in str(caught.value)
    assert len(sampler.sample(prompt, 1, sampled).result().sequences) == 1


def test_work_on_an_ended_session_fails_and_says_so(
    connect: Connect, service: ServiceProcess
) -> None:
    import httpx

    opened = connect()
    trainer = opened.create_lora_training_client(BASE_MODEL, rank=2).result()
    session_id = trainer.model_id.split(":")[0]
    answer = httpx.post(
        f"{service.ready['url']}/api/v1/sessions/{session_id}/finish",
        json={"reason": {"type": "success"}},
        headers={"X-API-Key": service.ready["api_key"]},
    )
    assert answer.status_code == 200
    with soon(), pytest.raises(tinker.APIStatusError) as caught:
        trainer.forward(random_data(1, seed=3), "cross_entropy").result()
    assert 400 <= caught.value.status_code < 500
    opened.close("success").result()


def test_what_cannot_be_computed_is_refused_before_anything_runs(warm: Warm) -> None:
    trainer = warm.fork()
    (good,) = random_data(1, seed=3)
    with pytest.raises(tinker.BadRequestError, match=r"stable_reinforce.*formula is not public"):
        trainer.forward_backward([good], "stable_reinforce", {"kl_coeff": 0.1}).result()
    image = tinker.ModelInput(chunks=[tinker.types.ImageChunk(data=b"x", format="png")])
    pictured = tinker.Datum(image, {"target_tokens": [1], "weights": [1.0]})
    with pytest.raises(tinker.BadRequestError, match=r"'image' cannot be read by 'tinsmith/tiny'"):
        trainer.forward_backward([pictured], "cross_entropy").result()
    trainer.forward_backward([good], "cross_entropy").result()  # both numbers count as used
