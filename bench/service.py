"""The service against the engine called directly, and what a single request costs.

Main name: `service_measurements`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

from bench.batches import datums, equal_examples, num_tokens
from bench.engines import ADAM, RANK, EngineSide, sampling_params
from bench.measurement import Measurement, Setting
from bench.models import BenchModel
from bench.results import Bound, Row
from bench.timing import compare, median_s
from tinsmith.client import ServiceClient, TrainingClient
from tinsmith.types import Datum, ModelInput

__all__ = ["service_measurements"]

START_TIMEOUT_S = 120.0
SUBMIT_AHEAD = 1  # what the training loop does


class ServiceProcess(contextlib.AbstractContextManager["ServiceProcess"]):
    """A service of its own on a free port, ended with the block."""

    def __init__(self, model: BenchModel, scratch: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=scratch))
        ready_file, log_file = self.directory / "ready.json", self.directory / "service.log"
        command = [sys.executable, "-m", "tinsmith.server", "--model", str(model.path)]
        command += ["--ready-file", str(ready_file), "--state-dir", str(self.directory / "state")]
        command += ["--device", "cpu"]
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.__exit__()
                raise RuntimeError(f"the service did not start: {log_file.read_text()[-500:]}")
            time.sleep(0.02)
        ready = json.loads(ready_file.read_text(encoding="utf-8"))
        self.url: str = ready["url"]
        self.api_key: str = ready["api_key"]
        self.client = ServiceClient(base_url=self.url, api_key=self.api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Rig:
    """A service, and an engine in this process, over one model."""

    def __init__(self, model: BenchModel, setting: Setting, stack: contextlib.ExitStack) -> None:
        self.model = model
        self.setting = setting
        self.stack = stack

    @cached_property
    def direct(self) -> EngineSide:
        """The engine without a service."""
        return EngineSide(self.model)

    @cached_property
    def training(self) -> TrainingClient:
        """An adapter on the service."""
        service = self.stack.enter_context(ServiceProcess(self.model, self.setting.scratch))
        self.stack.enter_context(contextlib.closing(service.client))
        return service.client.create_lora_training_client(
            str(self.model.path), rank=RANK, seed=0
        ).result()

    def throughput(self, name: str) -> Row:
        """Training steps of 4k tokens, sent ahead as the training loop does."""
        count = 4 if self.setting.quick else 32
        examples = equal_examples(count, 128, self.model.vocab_size)
        data = datums(examples)
        steps = self.model.steps_ahead
        adapter_id = self.direct.adapter_ids[0]
        comparison = compare(
            lambda: self._train_through_service(data, steps),
            lambda: [self.direct.train_step({adapter_id: data}) for _ in range(steps)],
            rounds=self.model.long_rounds,
        )
        return comparison.row(
            name,
            self.model.name,
            amount=steps * num_tokens(examples),
            unit="tokens/s",
            target=Bound("at least", 0.9),
        )

    def _train_through_service(self, data: list[Datum], steps: int) -> None:
        pending = []
        for _ in range(steps):
            forward_backward = self.training.forward_backward(data, "cross_entropy")
            pending.append((forward_backward, self.training.optim_step(ADAM)))
            if len(pending) > SUBMIT_AHEAD:
                for future in pending.pop(0):
                    future.result()
        for futures in pending:
            for future in futures:
                future.result()

    def overhead(self, name: str) -> Row:
        """What a step on eight tokens takes longer than it takes the engine."""
        data = datums(equal_examples(1, 8, self.model.vocab_size))
        adapter_id = self.direct.adapter_ids[0]
        comparison = compare(
            lambda: self._train_through_service(data, 1),
            lambda: self.direct.train_step({adapter_id: data}),
            rounds=5 if self.setting.quick else 50,
            warm_up=5,
        )
        through, direct = sorted(comparison.ours_s), sorted(comparison.peer_s)
        middle = len(through) // 2
        overhead_ms = (through[middle] - direct[middle]) * 1e3
        return Row(name=name, model=self.model.name, unit="ms", ours=overhead_ms)

    def first_sample(self, name: str) -> Row:
        """From "sample what I have trained" to a token."""
        prompt = ModelInput.from_ints(equal_examples(1, 63, self.model.vocab_size)[0].tokens)

        def sample() -> None:
            sampling = self.training.save_weights_and_get_sampling_client().result()
            sampling.sample(prompt, 1, sampling_params(1, seed=0)).result()

        seconds = median_s(sample, rounds=3 if self.setting.quick else 15, warm_up=2)
        return Row(name=name, model=self.model.name, unit="ms", ours=seconds * 1e3)


def service_measurements(setting: Setting) -> Iterator[Measurement]:
    """Throughput on every model; latencies on the first, where the model's own time is small."""
    for index, model in enumerate(setting.models):
        with contextlib.ExitStack() as stack:
            rig = _Rig(model, setting, stack)
            cases = [("training through the service, against the engine", rig.throughput)]
            if index == 0:
                cases += [
                    ("what the service adds to a step of 8 tokens", rig.overhead),
                    ("from trained weights to the first sampled token", rig.first_sample),
                ]
            for name, measure in cases:
                yield Measurement(
                    name, model.name, lambda name=name, measure=measure: measure(name)
                )
