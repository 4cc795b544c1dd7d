"""Training loops on top of the SDK.

Each method has a configuration, an asynchronous function and its synchronous face:
`SupervisedConfig`, `train_supervised`, `run_supervised` fine-tune on conversations;
`PreferenceConfig`, `train_preference`, `run_preference` learn from comparisons (DPO);
`RLConfig`, `train_rl`, `run_rl` learn from the rewards of sampled answers.
"""

from tinsmith.training.checkpoints import CheckpointRecord
from tinsmith.training.config import SampleEvalConfig, SupervisedConfig
from tinsmith.training.evaluators import Evaluator, NLLEvaluator
from tinsmith.training.loop import TrainingDivergedError
from tinsmith.training.preference import run as run_preference
from tinsmith.training.preference import train as train_preference
from tinsmith.training.preference_config import PreferenceConfig
from tinsmith.training.rl import run as run_rl
from tinsmith.training.rl import train as train_rl
from tinsmith.training.rl_config import RLConfig
from tinsmith.training.run import RunResult
from tinsmith.training.sampling_evaluators import SamplingEvaluator
from tinsmith.training.saving import Stateful
from tinsmith.training.supervised import run as run_supervised
from tinsmith.training.supervised import train as train_supervised

__all__ = [
    "CheckpointRecord",
    "Evaluator",
    "NLLEvaluator",
    "PreferenceConfig",
    "RLConfig",
    "RunResult",
    "SampleEvalConfig",
    "SamplingEvaluator",
    "Stateful",
    "SupervisedConfig",
    "TrainingDivergedError",
    "run_preference",
    "run_rl",
    "run_supervised",
    "train_preference",
    "train_rl",
    "train_supervised",
]
