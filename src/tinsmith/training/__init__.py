"""Training loops on top of the SDK.

`train_supervised` and its synchronous face `run_supervised` fine-tune on conversations as a
`SupervisedConfig` says.
"""

from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.config import SampleEvalConfig, SupervisedConfig
from tinsmith.training.evaluators import Evaluator, NLLEvaluator
from tinsmith.training.loop import TrainingDivergedError
from tinsmith.training.run import RunResult
from tinsmith.training.sampling_evaluators import SamplingEvaluator
from tinsmith.training.saving import Stateful
from tinsmith.training.supervised import run as run_supervised
from tinsmith.training.supervised import train as train_supervised

__all__ = [
    "CheckpointRecord",
    "Evaluator",
    "NLLEvaluator",
    "RunResult",
    "SampleEvalConfig",
    "SamplingEvaluator",
    "Stateful",
    "SupervisedConfig",
    "TrainingDivergedError",
    "run_supervised",
    "train_supervised",
]
