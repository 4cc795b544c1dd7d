"""Work items that cross into the engine, and what the engine says about itself.

Data only, without torch, so that the service can build jobs and pickle them to the engine's
process. Training: `ForwardBackwardJob` (with `RetainGraph`, `UseGraph`), `OptimStepJob`. Sampling:
`SampleJob`, `SampledToken`, `SampleResult`. `EngineLimits` bounds memory and batch shapes;
`BaseModelInfo` describes the loaded base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tinsmith.algorithms.loss_graph import LossGraph
from tinsmith.core.errors import TinsmithError
from tinsmith.types import (
    Datum,
    OptimParams,
    SampleResponse,
    SamplingParams,
    StopReason,
    TensorData,
)

__all__ = [
    "BaseModelInfo",
    "EngineLimits",
    "ForwardBackwardJob",
    "OptimStepJob",
    "RetainGraph",
    "SampleJob",
    "SampleResult",
    "SampledToken",
    "UseGraph",
]


@dataclass(frozen=True)
class RetainGraph:
    """Keep the forward's graph, so that a backward needs no second forward."""

    graph_id: int
    """Unique among the adapter's."""
    distribution: int | None = None
    """Also answer so many likeliest tokens of every position; 0 all tokens by id; None nothing."""


@dataclass(frozen=True)
class UseGraph:
    """Take the backward half of a `cross_entropy` through graphs that were kept."""

    graph_ids: tuple[int, ...]
    """Their datums, one graph's after another's, are those of the job."""
    on_missing: Literal["fail", "recompute"] = "fail"
    """What to do where a graph is not there any more: refuse, or run an ordinary pass."""
    accumulate: bool = True
    """Add the gradient and forget the graphs; else tell the gradient's norm, and keep them."""


@dataclass(frozen=True)
class ForwardBackwardJob:
    """Loss (and, unless `forward_only`, gradients) of one adapter on some datums."""

    adapter_id: str
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str] = field(default_factory=dict)
    forward_only: bool = False
    custom_loss: LossGraph | None = None
    """What `loss_fn="custom"` runs; whoever builds the job looks it up by its `loss_id`."""
    graph: RetainGraph | UseGraph | None = None
    """`RetainGraph` goes with `forward_only`, `UseGraph` without."""


@dataclass(frozen=True)
class OptimStepJob:
    """One optimizer step of one adapter on the gradients accumulated since its last step."""

    adapter_id: str
    params: OptimParams


@dataclass(frozen=True)
class SampleJob:
    """Continuations of one prompt by one adapter snapshot (None: the base model)."""

    job_id: str
    snapshot_id: str | None
    prompt: list[int]
    num_samples: int
    params: SamplingParams
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None
    stream: bool = False
    """Also tell every token as a `SampledToken` as soon as it is drawn."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token of a job that streams, ahead of the job's `SampleResult`."""

    job_id: str
    sample: int
    """Which of the job's sequences it continues."""
    token: int
    logprob: float
    stop_reason: StopReason | None = None
    """Given with the last token of the sequence."""


@dataclass(frozen=True)
class SampleResult:
    """What became of a `SampleJob`: a response or an error, never both."""

    job_id: str
    response: SampleResponse | None = None
    error: TinsmithError | None = None


@dataclass(frozen=True)
class BaseModelInfo:
    """What a client may know about the base model."""

    name: str
    arch: str
    tokenizer_id: str
    max_context_length: int
    vocab_size: int
    hidden_size: int
    num_parameters: int


@dataclass(frozen=True)
class EngineLimits:
    """Bounds on batch shapes; they trade memory for speed and never change a result's meaning.

    The defaults are for a CPU; `for_device` gives an accelerator's.
    """

    max_microbatch_tokens: int = 2048
    """Tokens, padding included, of one forward/backward micro-batch. One longer datum still runs,
    alone. On a CPU, 1k to 4k are equally fast and 8k is slower (caches)."""

    max_head_elements: int = 2**24
    """Logits (rows times vocabulary) held at a time."""

    max_decode_rows: int = 64
    """Sequences decoded together."""

    max_prefill_tokens: int = 4096
    """Prompt tokens, padding included, of one prefill."""

    @classmethod
    def for_device(cls, device_type: str) -> EngineLimits:
        """Sensible limits for "cpu" or an accelerator, which wants larger batches."""
        if device_type == "cpu":
            return cls()
        return cls(
            max_microbatch_tokens=16384,
            max_head_elements=2**28,
            max_decode_rows=256,
            max_prefill_tokens=16384,
        )

    max_cache_bytes: int = 4 * 2**30
    """Keys and values of the sequences being decoded. A single sequence may always run."""

    max_graph_bytes: int = 2 * 2**30
    """Forward graphs kept for a backward, all adapters together; 0 keeps none."""

    graph_ttl_s: float = 600.0
    """How long a forward graph is kept, in seconds."""

    max_weight_copy_bytes: int = 2 * 2**30
    """Copies of weights in layouts that decoding reads fast, on the CPU; 0 makes none."""
