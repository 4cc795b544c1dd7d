"""The SDK: train and sample over the service, from scripts, async code and notebooks alike.

`ServiceClient` is the way in; it makes `TrainingClient`s and `SamplingClient`s, whose methods
return `APIFuture`s. `RestClient` looks after what the service keeps. Names and defaults follow the
Tinker SDK.
"""

from httpx import Timeout

from tinsmith.client.admin import AdminClient
from tinsmith.client.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ClientClosedError,
    ConflictError,
    ExperimentalWarning,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestFailedError,
    ResultExpiredError,
    SessionLostError,
    TinkerError,
    UnprocessableEntityError,
    UnsupportedError,
)
from tinsmith.client.futures import (
    APIFuture,
    BackcompatSamplingClientFuture,
    BackcompatTrainingClientFuture,
    ClientFuture,
)
from tinsmith.client.loss_handle import LossHandle
from tinsmith.client.loss_tracing import PerDatumLossFn
from tinsmith.client.options import FEW_LONG_ATTEMPTS, RequestOptions
from tinsmith.client.rest import RestClient
from tinsmith.client.retries import RetryConfig
from tinsmith.client.sample_stream import SampledTokens, SampleStream
from tinsmith.client.sampling import SamplingClient
from tinsmith.client.service import ServiceClient
from tinsmith.client.training import TrainingClient
from tinsmith.core.errors import TinsmithError

__all__ = [
    "FEW_LONG_ATTEMPTS",
    "APIConnectionError",
    "APIError",
    "APIFuture",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AdminClient",
    "AuthenticationError",
    "BackcompatSamplingClientFuture",
    "BackcompatTrainingClientFuture",
    "BadRequestError",
    "BillingError",
    "ClientClosedError",
    "ClientFuture",
    "ConflictError",
    "ExperimentalWarning",
    "InternalServerError",
    "LossHandle",
    "NotFoundError",
    "PerDatumLossFn",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestFailedError",
    "RequestOptions",
    "RestClient",
    "ResultExpiredError",
    "RetryConfig",
    "SampleStream",
    "SampledTokens",
    "SamplingClient",
    "ServiceClient",
    "SessionLostError",
    "Timeout",
    "TinkerError",
    "TinsmithError",
    "TrainingClient",
    "UnprocessableEntityError",
    "UnsupportedError",
]
