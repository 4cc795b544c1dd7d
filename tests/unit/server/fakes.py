"""Stand-ins for the engine, on either side of the pipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinsmith.core.errors import UserError
from tinsmith.engine.jobs import (
    ForwardBackwardJob,
    OptimStepJob,
    SampledToken,
    SampleJob,
    SampleResult,
)
from tinsmith.server.messages import Command
from tinsmith.types import (
    ForwardBackwardOutput,
    LoraConfig,
    OptimizerConfig,
    OptimStepResponse,
    SampledSequence,
    SampleResponse,
)


class ManualEngine:
    """The API's side: keeps the calls it is given until the test answers them."""

    def __init__(self) -> None:
        self.calls: deque[tuple[Command, Callable[[object], None]]] = deque()
        self.history: list[Command] = []

    def call(self, command: Command, on_reply: Callable[[object], None]) -> None:
        self.calls.append((command, on_reply))
        self.history.append(command)

    def answer(self, result: object = None) -> Command:
        """Answers the oldest call."""
        command, on_reply = self.calls.popleft()
        on_reply(result)
        return command


class FakeGraphs:
    """Keeps none."""

    def next_expiry_s(self) -> float | None:
        return None


class FakeSampler:
    """Finishes a job after as many steps as it has `max_tokens`."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.num_steps = 0
        self.breaks = False
        self.poisonous: set[str] = set()
        """Jobs with which no step succeeds."""
        self.told: list[SampledToken] = []

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def submit(self, job: SampleJob) -> None:
        if job.num_samples > 100:
            raise UserError("num_samples: too many", field="num_samples")
        self.running[job.job_id] = job.params.max_tokens or 1

    def cancel(self, job_id: str) -> None:
        self.running.pop(job_id, None)

    def take_tokens(self) -> list[SampledToken]:
        told, self.told = self.told, []
        return told

    def step(self) -> list[SampleResult]:
        if self.breaks or self.poisonous & self.running.keys():
            raise RuntimeError("broken step")
        self.num_steps += 1
        self.running = {job_id: left - 1 for job_id, left in self.running.items()}
        done = [job_id for job_id, left in self.running.items() if left <= 0]
        for job_id in done:
            del self.running[job_id]
        sequence = SampledSequence(stop_reason="stop", tokens=[1])
        return [SampleResult(job_id, SampleResponse(sequences=[sequence])) for job_id in done]


class FakeEngine:
    """The engine's side: notes what it was told."""

    def __init__(self) -> None:
        self.sampler = FakeSampler()
        self.retained = FakeGraphs()
        self.events: list[str] = []
        self.adapters: dict[str, LoraConfig] = {}

    def create_adapter(
        self, adapter_id: str, config: LoraConfig, optimizer_config: OptimizerConfig
    ) -> LoraConfig:
        self.adapters[adapter_id] = config
        return config

    def has_adapter(self, adapter_id: str) -> bool:
        return adapter_id in self.adapters

    def forward_backward(self, jobs: list[ForwardBackwardJob]) -> list[Any]:
        self.events.append(f"forward_backward@{self.sampler.num_steps}")
        if any(job.loss_fn == "crash" for job in jobs):
            raise RuntimeError("out of luck")
        return [output() for _ in jobs]

    def optim_step(self, jobs: list[OptimStepJob]) -> list[Any]:
        self.events.append("optim_step")
        return [OptimStepResponse(metrics={"grad_norm": 1.0}) for _ in jobs]

    def save_state(self, adapter_id: str, directory: Path) -> None:
        (directory / "state.json").write_text(adapter_id)

    def save_sampler_weights(self, adapter_id: str, directory: Path) -> str:
        (directory / "adapter_config.json").write_text("{}")
        return f"snapshot-of-{adapter_id}"


def output(loss: float = 1.0) -> ForwardBackwardOutput:
    """A forward_backward output without datums."""
    return ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord", loss_fn_outputs=[], metrics={"loss:sum": loss}
    )
