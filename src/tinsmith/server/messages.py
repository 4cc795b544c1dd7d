"""What travels between the API process and an engine process: plain data, pickled.

To the engine: `EngineSettings` first, then `Call` (one command, answered by one `Reply` with the
same number, in order), `SampleJob` (answered by a `SampleResult` when it is done, and before that
by each `SampledToken` if it streams), `CancelSample` and `Stop`.
From the engine: `Ready` or `StartFailed`, then `Reply` and lists of `SampledToken` and
`SampleResult`, tokens first.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinsmith.core.errors import TinsmithError
from tinsmith.engine.jobs import BaseModelInfo, ForwardBackwardJob, OptimStepJob
from tinsmith.types import AdapterTerm, LoraConfig, OptimizerConfig


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Which base model an engine process serves, and where it computes."""

    base_model: str
    device: str | None = None
    max_graph_bytes: int | None = None
    """Of kept forward graphs; None takes the engine's own bound."""
    graph_ttl_s: float = 600.0


@dataclass(frozen=True, slots=True)
class CreateAdapter:
    """Adds a fresh adapter; answered by None."""

    adapter_id: str
    lora_config: LoraConfig
    optimizer_config: OptimizerConfig


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    """Removes an adapter; answered by None, also when it is not there."""

    adapter_id: str


@dataclass(frozen=True, slots=True)
class RunForwardBackward:
    """One training pass; answered by an encoded ForwardBackwardOutput or TinsmithError a job.

    Encoded, because bytes cross the pipe at a fraction of what arrays cost, and the API process has
    every other request to look after.
    """

    jobs: Sequence[ForwardBackwardJob]


@dataclass(frozen=True, slots=True)
class RunOptimStep:
    """One optimizer step of each adapter; answered by one response or TinsmithError a job."""

    jobs: Sequence[OptimStepJob]


@dataclass(frozen=True, slots=True)
class AddAdapterTerms:
    """Adds gradients of terms on the parameters; answered by an AdapterTermsResponse."""

    adapter_id: str
    terms: Sequence[AdapterTerm]


@dataclass(frozen=True, slots=True)
class SaveState:
    """Writes a training checkpoint; answered by None."""

    adapter_id: str
    directory: Path
    overwrite: bool
    record: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LoadState:
    """Reads a training checkpoint into an adapter, which `create` adds; answered by None."""

    adapter_id: str
    directory: Path
    with_optimizer: bool
    create: bool
    optimizer_config: OptimizerConfig | None = None
    """Of the adapter from then on; None keeps its own, or takes the checkpoint's."""


@dataclass(frozen=True, slots=True)
class SaveSamplerWeights:
    """Writes sampler weights; answered by the snapshot id."""

    adapter_id: str
    directory: Path
    record: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SaveExternal:
    """Writes a PEFT adapter for use elsewhere, encrypted if there are keys; answered by None."""

    adapter_id: str
    directory: Path
    record: Mapping[str, object]
    recipients: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Keeps the adapter's present weights in memory; answered by the snapshot id."""

    adapter_id: str


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """Reads saved sampler weights into memory; answered by the snapshot id."""

    directory: Path


@dataclass(frozen=True, slots=True)
class ReleaseSnapshot:
    """Gives back as many answers that named a snapshot; the last one frees it. Answered by None."""

    snapshot_id: str
    num_holds: int = 1


@dataclass(frozen=True, slots=True)
class CancelSample:
    """Forget a sample; it is not answered."""

    job_id: str


Command = (
    CreateAdapter
    | UnloadAdapter
    | RunForwardBackward
    | RunOptimStep
    | AddAdapterTerms
    | SaveState
    | LoadState
    | SaveSamplerWeights
    | SaveExternal
    | TakeSnapshot
    | LoadSnapshot
    | ReleaseSnapshot
)


@dataclass(frozen=True, slots=True)
class Call:
    """A numbered command."""

    call_id: int
    command: Command


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a call: the command's answer, or the error that it ended in."""

    call_id: int
    result: object


@dataclass(frozen=True, slots=True)
class Ready:
    """The base model is loaded."""

    info: BaseModelInfo


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The base model could not be loaded; the process ends."""

    error: TinsmithError


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish the work at hand and end."""


def encode(message: object) -> bytes:
    """Pickles a message; NumPy arrays go as one copy each."""
    return pickle.dumps(message, protocol=5)


def decode(data: bytes) -> object:
    """Unpickles a message from the process at the other end of our own pipe."""
    return pickle.loads(data)
