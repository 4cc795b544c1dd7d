"""A killed service and the one after it, as real processes on one state directory."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import ServiceProcess, WireClient, WireModel, make_data

pytestmark = pytest.mark.integration


class SecondClient(WireClient):
    """A client that goes on with the first one's session."""

    def __init__(self, ready: dict[str, Any], session_id: str) -> None:
        super().__init__(ready)
        self.session_id = session_id


def test_a_killed_service_answers_what_was_finished_and_resumes_from_the_checkpoint(
    tmp_path: Path, tiny_dir: Path
) -> None:
    data = make_data()
    with ServiceProcess(tmp_path) as first:
        client = WireClient(first.ready)
        model = client.create_model()
        model.train_step(data)
        path = model.save("save_weights", "step-1", user_metadata={"step": 1})
        sampler_path = model.save("save_weights_for_sampler", "step-1")
        sampler = client.create_sampler(0, model_path=sampler_path)
        before = client.samples(client.asample(sampler, [50, 51], seq_id=0)["request_id"])
        finished = model.forward_backward(data)["request_id"]
        expected = client.output(finished)
        step = model.optim_step()["request_id"]
        metrics = client.json_result(step)
        promises = [model.forward_backward(make_data(64, 64))["request_id"] for _ in range(3)]
        client.post("session_heartbeat", session_id=client.session_id)
        first.stop(signal.SIGKILL)
    first.ready_file.unlink()
    with ServiceProcess(tmp_path) as second:
        again = SecondClient(second.ready, client.session_id)
        assert again.output(finished).loss == expected.loss
        assert again.json_result(step) == metrics
        for request_id in promises:
            failure = again.failure(request_id)
            assert failure["category"] == "server"
            assert path in failure["error"]
        refused = WireModel(again, model.model_id).optim_step(expect=410)
        assert refused["category"] == "server"
        assert path in refused["hint"]
        after = again.samples(again.asample(sampler, [50, 51], seq_id=1)["request_id"])
        assert after.sequences[0].tokens == before.sequences[0].tokens
        resumed = again.load_model(path, 1)
        loss = again.output(resumed.forward_backward(data)["request_id"]).loss
        assert loss == pytest.approx(expected.loss)
