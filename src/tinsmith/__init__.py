"""Tinsmith: fine-tune language models through four primitives.

`forward_backward`, `optim_step`, `sample` and `save_state`, over a service that is embedded on a
laptop and shared on a box. Importing this package loads nothing else: each public name below is
resolved when it is first used.

Example:
    >>> import tinsmith
    >>> tinsmith.AdamParams(learning_rate=1e-4).learning_rate
    0.0001
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinsmith import auth, types
    from tinsmith.client import (
        AdminClient,
        APIConnectionError,
        APIError,
        APIFuture,
        APIResponseValidationError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BackcompatSamplingClientFuture,
        BackcompatTrainingClientFuture,
        BadRequestError,
        BillingError,
        ConflictError,
        ExperimentalWarning,
        InternalServerError,
        LossHandle,
        NotFoundError,
        PerDatumLossFn,
        PermissionDeniedError,
        RateLimitError,
        RequestFailedError,
        RequestOptions,
        RestClient,
        RetryConfig,
        SamplingClient,
        ServiceClient,
        Timeout,
        TinkerError,
        TrainingClient,
        UnprocessableEntityError,
    )
    from tinsmith.core.errors import (
        ConfigError,
        DataError,
        MissingExtraError,
        ServerError,
        TinsmithError,
        UnknownNameError,
        UserError,
    )
    from tinsmith.types import (
        AdamOptimizerConfig,
        AdamParams,
        Checkpoint,
        CheckpointType,
        Datum,
        DimuonOptimizerConfig,
        DimuonParams,
        DmelChunk,
        EncodedTextChunk,
        ForwardBackwardOutput,
        LoraConfig,
        ModelID,
        ModelInput,
        ModelInputChunk,
        OptimParams,
        OptimStepRequest,
        OptimStepResponse,
        ParsedCheckpointTinkerPath,
        PromptProvenanceSpan,
        SampledProvenanceSpan,
        SampledSequence,
        SampleRequest,
        SampleResponse,
        SamplingParams,
        StopReason,
        TensorData,
        TensorDtype,
        TrainingRun,
    )

__title__ = "tinsmith"
__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIFuture",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AdamOptimizerConfig",
    "AdamParams",
    "AdminClient",
    "AuthenticationError",
    "BackcompatSamplingClientFuture",
    "BackcompatTrainingClientFuture",
    "BadRequestError",
    "BillingError",
    "Checkpoint",
    "CheckpointType",
    "ConfigError",
    "ConflictError",
    "DataError",
    "Datum",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "DmelChunk",
    "EncodedTextChunk",
    "ExperimentalWarning",
    "ForwardBackwardOutput",
    "InternalServerError",
    "LoraConfig",
    "LossHandle",
    "MissingExtraError",
    "ModelID",
    "ModelInput",
    "ModelInputChunk",
    "NotFoundError",
    "OptimParams",
    "OptimStepRequest",
    "OptimStepResponse",
    "ParsedCheckpointTinkerPath",
    "PerDatumLossFn",
    "PermissionDeniedError",
    "PromptProvenanceSpan",
    "RateLimitError",
    "RequestFailedError",
    "RequestOptions",
    "RestClient",
    "RetryConfig",
    "SampleRequest",
    "SampleResponse",
    "SampledProvenanceSpan",
    "SampledSequence",
    "SamplingClient",
    "SamplingParams",
    "ServerError",
    "ServiceClient",
    "StopReason",
    "TensorData",
    "TensorDtype",
    "Timeout",
    "TinkerError",
    "TinsmithError",
    "TrainingClient",
    "TrainingRun",
    "UnknownNameError",
    "UnprocessableEntityError",
    "UserError",
    "__title__",
    "__version__",
    "auth",
    "types",
]

_NAMES_OF = {
    "tinsmith.client": """
        APIConnectionError APIError APIFuture APIResponseValidationError APIStatusError
        APITimeoutError AdminClient AuthenticationError BackcompatSamplingClientFuture
        BackcompatTrainingClientFuture BadRequestError BillingError ConflictError
        ExperimentalWarning InternalServerError LossHandle NotFoundError PerDatumLossFn
        PermissionDeniedError RateLimitError RequestFailedError RequestOptions RestClient
        RetryConfig SamplingClient ServiceClient Timeout TinkerError TrainingClient
        UnprocessableEntityError
    """,
    "tinsmith.core.errors": """
        ConfigError DataError MissingExtraError ServerError TinsmithError UnknownNameError UserError
    """,
    "tinsmith.types": """
        AdamOptimizerConfig AdamParams Checkpoint CheckpointType Datum DimuonOptimizerConfig
        DimuonParams DmelChunk EncodedTextChunk ForwardBackwardOutput LoraConfig ModelID ModelInput
        ModelInputChunk OptimParams OptimStepRequest OptimStepResponse ParsedCheckpointTinkerPath
        PromptProvenanceSpan SampleRequest SampleResponse SampledProvenanceSpan SampledSequence
        SamplingParams StopReason TensorData TensorDtype TrainingRun
    """,
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Resolve a public name on first use (PEP 562)."""
    if name in ("auth", "types"):
        return import_module(f"tinsmith.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'tinsmith' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
