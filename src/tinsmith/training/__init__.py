"""Training loops on top of the SDK.

`train_supervised` and its synchronous face `run_supervised` fine-tune on conversations as a
`SupervisedConfig` says.
"""

from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.config import SupervisedConfig
from tinsmith.training.evaluators import Evaluator, NLLEvaluator
from tinsmith.training.supervised import SupervisedResult, TrainingDivergedError
from tinsmith.training.supervised import run as run_supervised
from tinsmith.training.supervised import train as train_supervised

__all__ = [
    "CheckpointRecord",
    "Evaluator",
    "NLLEvaluator",
    "SupervisedConfig",
    "SupervisedResult",
    "TrainingDivergedError",
    "run_supervised",
    "train_supervised",
]
