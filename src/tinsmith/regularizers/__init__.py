"""Regularizers: named, weighted terms that are added to a loss of the logprobs.

`Regularizer` is a term's specification; the built-in functions are `L1`, `L2`, `ElasticNet`,
`OutputMagnitude`, `Entropy`, `SampledEntropy`, `KL`, `KLEstimate`, `JensenShannon`, `Consistency`,
`GradientPenalty` and `Orthogonality`. `ComposedLoss` adds them up; the training client's
`forward_backward_custom` is the usual way to it. Importing this room loads no torch.
"""

from tinsmith.regularizers.adaptive import AdaptiveWeight, DualAscent, EmaNormalisation
from tinsmith.regularizers.composition import ComposedLoss
from tinsmith.regularizers.divergence import KL, Consistency, JensenShannon, KLEstimate
from tinsmith.regularizers.entropy import Entropy, SampledEntropy
from tinsmith.regularizers.errors import RegularizerError, RegularizerTimeoutError
from tinsmith.regularizers.events import LossEvent, Observer
from tinsmith.regularizers.geometry import GradientPenalty, Orthogonality
from tinsmith.regularizers.magnitude import L1, L2, ElasticNet, OutputMagnitude
from tinsmith.regularizers.options import CustomLossOptions
from tinsmith.regularizers.outputs import (
    BaseLossOutput,
    CustomLossOutput,
    RegularizerOutput,
    combine_custom_outputs,
)
from tinsmith.regularizers.packing import packed
from tinsmith.regularizers.policies import PolicyReference, bind_policies
from tinsmith.regularizers.registry import (
    RegularizerConfig,
    list_regularizers,
    register_regularizer,
    unregister_regularizer,
)
from tinsmith.regularizers.schedules import (
    ConstantWeight,
    CosineWeight,
    ExponentialWeight,
    LinearWeight,
    PiecewiseWeight,
    WarmUpWeight,
    WeightSchedule,
    make_weight_schedule,
)
from tinsmith.regularizers.specs import Regularizer, ablations
from tinsmith.regularizers.state import RegularizerState

__all__ = [
    "KL",
    "L1",
    "L2",
    "AdaptiveWeight",
    "BaseLossOutput",
    "ComposedLoss",
    "Consistency",
    "ConstantWeight",
    "CosineWeight",
    "CustomLossOptions",
    "CustomLossOutput",
    "DualAscent",
    "ElasticNet",
    "EmaNormalisation",
    "Entropy",
    "ExponentialWeight",
    "GradientPenalty",
    "JensenShannon",
    "KLEstimate",
    "LinearWeight",
    "LossEvent",
    "Observer",
    "Orthogonality",
    "OutputMagnitude",
    "PiecewiseWeight",
    "PolicyReference",
    "Regularizer",
    "RegularizerConfig",
    "RegularizerError",
    "RegularizerOutput",
    "RegularizerState",
    "RegularizerTimeoutError",
    "SampledEntropy",
    "WarmUpWeight",
    "WeightSchedule",
    "ablations",
    "bind_policies",
    "combine_custom_outputs",
    "list_regularizers",
    "make_weight_schedule",
    "packed",
    "register_regularizer",
    "unregister_regularizer",
]
