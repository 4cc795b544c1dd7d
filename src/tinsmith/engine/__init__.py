"""The engine: many LoRA adapters trained and sampled over one frozen base model.

The jobs that cross into it are exported here and need no torch; `tinsmith.engine.engine.Engine`,
which does, is imported by module.
"""

from tinsmith.engine.jobs import (
    BaseModelInfo,
    EngineLimits,
    ForwardBackwardJob,
    OptimStepJob,
    SampleJob,
    SampleResult,
)

__all__ = [
    "BaseModelInfo",
    "EngineLimits",
    "ForwardBackwardJob",
    "OptimStepJob",
    "SampleJob",
    "SampleResult",
]
