"""A service in its own process, and a small raw client of its wire protocol, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tinsmith.types import Datum, ForwardBackwardOutput, ModelInput, SampleResponse
from tinsmith.types.codec import (
    decode_forward_backward_output,
    decode_sample_response,
    encode_forward_backward_request,
)

START_TIMEOUT_S = 60.0
BASE_MODEL = "tinsmith/tiny"
PROTOBUF = "application/x-protobuf"


class ServiceProcess:
    """`python -m tinsmith.server`, ended with the block."""

    def __init__(self, directory: Path, *options: str, state_dir: Path | None = None) -> None:
        self.ready_file = directory / "ready.json"
        self.log_file = directory / "service.log"
        self.state_dir = state_dir or directory / "state"
        command = [sys.executable, "-m", "tinsmith.server", "--ready-file", str(self.ready_file)]
        command += ["--state-dir", str(self.state_dir), *options]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.ready = self._wait_ready()

    def _wait_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{self.log_file.read_text()}")
            time.sleep(0.02)
        return json.loads(self.ready_file.read_text())

    @property
    def engine_pids(self) -> list[int]:
        """Process ids of the engines."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WireClient:
    """Raw requests against a service; `expect` is the status an answer must have."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.http = httpx.Client(
            base_url=f"{ready['url']}/api/v1/",
            headers={"X-API-Key": ready["api_key"]},
            timeout=60.0,
            trust_env=False,
        )
        self.session_id = self.post("create_session", tags=[], sdk_version="test")["session_id"]

    def post(self, endpoint: str, /, *, expect: int = 200, **body: object) -> dict[str, Any]:
        """Posts JSON and returns the JSON answer."""
        response = self.http.post(endpoint, json=body)
        assert response.status_code == expect, response.text
        return response.json()

    def wait(self, request_id: str) -> dict[str, Any] | bytes:
        """The result of a future: JSON, or protobuf bytes."""
        while True:
            body = {"request_id": request_id, "allow_metadata_only": False}
            response = self.http.post("retrieve_future", json=body)
            if response.status_code != 408:
                break
        assert response.status_code == 200, response.text
        if response.headers["content-type"].startswith(PROTOBUF):
            return response.content
        return response.json()

    def json_result(self, request_id: str) -> dict[str, Any]:
        """A JSON result that is no failure."""
        result = self.wait(request_id)
        assert isinstance(result, dict)
        assert "error" not in result, result
        return result

    def failure(self, request_id: str) -> dict[str, Any]:
        """The failure that a future ended in."""
        result = self.wait(request_id)
        assert isinstance(result, dict)
        assert "error" in result, result
        return result

    def output(self, request_id: str) -> ForwardBackwardOutput:
        """The result of a forward_backward."""
        result = self.wait(request_id)
        assert isinstance(result, bytes), result
        return decode_forward_backward_output(result)

    def samples(self, request_id: str) -> SampleResponse:
        """The result of a sample."""
        result = self.wait(request_id)
        assert isinstance(result, bytes), result
        return decode_sample_response(result)

    def create_model(self, number: int = 0, **lora: object) -> WireModel:
        """A fresh model, ready."""
        lora_config = {"rank": 8, "seed": 1, **lora}
        promise = self.post(
            "create_model",
            session_id=self.session_id,
            model_seq_id=number,
            base_model=BASE_MODEL,
            lora_config=lora_config,
        )
        result = self.json_result(promise["request_id"])
        return WireModel(self, result["model_id"])

    def load_model(self, path: str, number: int, *, optimizer: bool = True) -> WireModel:
        """A model made from a checkpoint, ready."""
        promise = self.post(
            "load_weights",
            session_id=self.session_id,
            model_seq_id=number,
            path=path,
            optimizer=optimizer,
        )
        self.json_result(promise["request_id"])
        return WireModel(self, f"{self.session_id}:train:{number}")

    def create_sampler(self, number: int, **target: Any) -> str:
        """A sampling session's id."""
        answer = self.post(
            "create_sampling_session",
            session_id=self.session_id,
            sampling_session_seq_id=number,
            **target,
        )
        return answer["sampling_session_id"]

    def asample(
        self, sampler_id: str, prompt: Sequence[int], *, seq_id: int, **options: object
    ) -> dict[str, Any]:
        """Submits a sample; returns the promise."""
        params = {"max_tokens": 8, "temperature": 0.0} | dict(options.pop("params", {}))  # type: ignore[call-overload]
        return self.post(
            "asample",
            sampling_session_id=sampler_id,
            seq_id=seq_id,
            prompt=ModelInput.from_ints(prompt).model_dump(mode="json"),
            sampling_params=params,
            **{"num_samples": 1, **options},
        )


class WireModel:
    """One model on the wire, which numbers its own requests."""

    def __init__(self, client: WireClient, model_id: str) -> None:
        self.client = client
        self.model_id = model_id
        self.seq_id = 0

    def _next(self, seq_id: int | None) -> int:
        self.seq_id = seq_id or self.seq_id + 1
        return self.seq_id

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        *,
        seq_id: int | None = None,
        forward_only: bool = False,
        expect: int = 200,
    ) -> dict[str, Any]:
        """Submits; returns the promise or the error."""
        body = encode_forward_backward_request(
            self.model_id, self._next(seq_id), list(data), loss_fn, {}, forward_only=forward_only
        )
        headers = {"Content-Type": PROTOBUF}
        response = self.client.http.post("forward_backward", content=body, headers=headers)
        assert response.status_code == expect, response.text
        return response.json()

    def submit(
        self, endpoint: str, /, *, seq_id: int | None = None, expect: int = 200, **body: object
    ) -> dict[str, Any]:
        """Submits a JSON request of this model."""
        body = {"model_id": self.model_id, "seq_id": self._next(seq_id), **body}
        return self.client.post(endpoint, expect=expect, **body)

    def optim_step(self, learning_rate: float = 1e-2, **options: Any) -> dict[str, Any]:
        """Submits an optimizer step."""
        return self.submit("optim_step", adam_params={"learning_rate": learning_rate}, **options)

    def train_step(self, data: Sequence[Datum]) -> float:
        """One pipelined step; returns the loss before it."""
        gradients = self.forward_backward(data)
        step = self.optim_step()
        loss = self.client.output(gradients["request_id"]).loss
        self.client.json_result(step["request_id"])
        return loss

    def loss(self, data: Sequence[Datum]) -> float:
        """The loss, forward only."""
        promise = self.forward_backward(data, forward_only=True)
        return self.client.output(promise["request_id"]).loss

    def save(self, endpoint: str, name: str, **options: Any) -> str:
        """Saves and returns the checkpoint's path."""
        promise = self.submit(endpoint, path=name, **options)
        return self.client.json_result(promise["request_id"])["path"]


def make_data(num_datums: int = 4, length: int = 16, *, seed: int = 0) -> list[Datum]:
    """Token sequences that can be learned: each token's target is the next one."""
    data: list[Datum] = []
    for index in range(num_datums):
        start = 50 + 31 * (seed + index)
        tokens = [start + offset % 7 for offset in range(length + 1)]
        inputs = {"target_tokens": tokens[1:], "weights": [1.0] * length}
        data.append(Datum(ModelInput.from_ints(tokens[:-1]), inputs))
    return data


def wait_for_end(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether a process that is not our child ends in time."""
    try:
        psutil.Process(pid).wait(timeout=timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def kill(pid: int) -> None:
    """Ends a process the hard way."""
    os.kill(pid, signal.SIGKILL)
