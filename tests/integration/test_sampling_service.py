"""Sampling that lives longer than one answer: in-flight weights, over HTTP with the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.service_process import (
    BASE_MODEL,
    ServiceProcess,
    WireClient,
    WireModel,
    make_data,
)

pytestmark = pytest.mark.integration

PROMPT = [50, 51, 52, 53]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service"), "--model", BASE_MODEL) as running:
        yield running


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient(service.ready)
    yield client
    client.post(f"sessions/{client.session_id}/finish", reason={"type": "success"})
    client.http.close()


def publish(model: WireModel, number: int, kind: str = "inflight") -> str:
    """A nameless save; the id of its sampling session."""
    promise = model.submit("save_weights_for_sampler", sampling_session_seq_id=number, kind=kind)
    return model.client.json_result(promise["request_id"])["sampling_session_id"]


def logprobs(client: WireClient, sampler_id: str, seq_id: int) -> np.ndarray:
    promise = client.asample(sampler_id, PROMPT, seq_id=seq_id, prompt_logprobs=True)
    found = client.samples(promise["request_id"]).prompt_logprobs_np
    assert found is not None
    return found[1:]


def test_inflight_sessions_move_to_newer_weights_and_snapshots_stay(client: WireClient) -> None:
    model, other = client.create_model(0), client.create_model(1)
    first = publish(model, 0)
    frozen = publish(model, 1, "snapshot")  # the same weights: one snapshot, two sessions
    foreign = publish(other, 2)
    before = logprobs(client, first, 0)
    np.testing.assert_array_equal(logprobs(client, frozen, 0), before)
    model.train_step(make_data())
    np.testing.assert_array_equal(logprobs(client, first, 1), before)  # until the next save
    second = publish(model, 3)
    after = logprobs(client, second, 0)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(logprobs(client, first, 2), after)
    np.testing.assert_array_equal(logprobs(client, frozen, 1), before)
    np.testing.assert_array_equal(logprobs(client, foreign, 0), before)
    client.json_result(client.post("unload_model", model_id=model.model_id)["request_id"])
    np.testing.assert_array_equal(logprobs(client, first, 3), after)  # the last ones published


def test_a_sample_ends_on_the_weights_it_was_accepted_with(client: WireClient) -> None:
    model = client.create_model()
    sampler = publish(model, 0)
    options: dict[str, Any] = {"num_samples": 2, "params": {"max_tokens": 300, "stop": []}}
    alone = client.samples(client.asample(sampler, PROMPT, seq_id=0, **options)["request_id"])
    promise = client.asample(sampler, PROMPT, seq_id=1, **options)
    for _ in range(3):
        model.train_step(make_data())
    publish(model, 1)
    moved = client.samples(client.asample(sampler, PROMPT, seq_id=2, **options)["request_id"])
    crowded = client.samples(promise["request_id"])
    for found, expected in zip(crowded.sequences, alone.sequences, strict=True):
        assert found.tokens == expected.tokens
        # Batch mates change the last bits; the newer weights would change the first.
        np.testing.assert_allclose(found.logprobs_np, expected.logprobs_np, atol=1e-4)
    assert moved.sequences[0].tokens != alone.sequences[0].tokens


def test_a_named_save_cannot_be_inflight(client: WireClient) -> None:
    body = {"path": "a", "kind": "inflight"}
    refused = client.create_model().submit("save_weights_for_sampler", expect=400, **body)
    assert refused["field"] == "kind"
    assert "a checkpoint never changes" in refused["message"]
