"""What every route reads and answers; a test fails while a route is missing here.

The routes read bodies by hand, with a cap and errors of their own, so that the web framework cannot
know them. Main names: `ENDPOINTS`, `Endpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from tinsmith import types
from tinsmith.server import requests
from tinsmith.server.training_bodies import TrainingJsonRequest

__all__ = ["BINARY", "ENDPOINTS", "JSON", "PROTOBUF", "Endpoint", "Schema"]

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
# Any: JSON schema is a tree of dicts, lists and scalars.
Schema = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """What one route reads and answers."""

    summary: str
    body: type[BaseModel] | None = None
    """The JSON body that it reads."""
    query: type[BaseModel] | None = None
    answer: type[BaseModel] | Schema | None = None
    """The JSON of its answer; None: it has no content."""
    takes_protobuf: bool = False
    """A protobuf body may come in place of JSON."""
    other_answers: Mapping[str, Mapping[str, Schema | type[BaseModel]]] = field(
        default_factory=dict
    )
    """Further answers: status to media type to content."""


def _constant(**fields: object) -> Schema:
    """An answer that is always the same."""
    properties = {name: {"const": value} for name, value in fields.items()}
    return {"type": "object", "properties": properties, "required": sorted(fields)}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": sorted(properties)}


BINARY: Schema = {}  # OpenAPI 3.1: the media type says it
TEXT: Schema = {"type": "string"}
WHOLE_NUMBER: Schema = {"type": "integer"}
ANY_OBJECT: Schema = {"type": "object"}
COMPLETION = _object(
    state={"enum": ["finished", "failed"]},
    request_id=TEXT,
)
PROMISE = types.UntypedAPIFuture
CHECKPOINT = "/api/v1/training_runs/{run_id}/checkpoints/{kind}/{name}"
_TRAINING = {"body": TrainingJsonRequest, "answer": PROMISE, "takes_protobuf": True}

ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("get", "/api/v1/healthz"): Endpoint("Is the service up?", answer=_constant(status="ok")),
    ("get", "/api/v1/get_server_capabilities"): Endpoint(
        "The base models.", answer=types.GetServerCapabilitiesResponse
    ),
    ("post", "/api/v1/client/config"): Endpoint(
        "Settings for clients; absent ones have the protocol's defaults.",
        body=requests.ClientConfigRequest,
        answer=ANY_OBJECT,
    ),
    ("post", "/api/v1/client/dynamic_config"): Endpoint(
        "Settings that may change.", body=requests.ClientConfigRequest, answer=ANY_OBJECT
    ),
    ("post", "/api/v1/telemetry"): Endpoint(
        "What a client reports about itself.",
        body=requests.TelemetryRequest,
        answer=_constant(status="accepted"),
    ),
    ("get", "/api/v1/auth/apikey/me"): Endpoint("Whose key this is.", answer=types.ApiKeyResponse),
    ("delete", "/api/v1/auth/apikey/me"): Endpoint("Revokes the key that asks."),
    ("post", "/api/v1/auth/token"): Endpoint("Refused: keys are used as they are."),
    ("get", "/api/v1/audit"): Endpoint(
        "No events: nothing is audited.", query=requests.AuditQuery, answer=types.AuditLogResponse
    ),
    ("get", "/api/v1/billing/usage/events"): Endpoint(
        "No events: nothing is billed.",
        query=requests.UsageQuery,
        answer=types.BillingUsageResponse,
    ),
    ("get", "/api/v1/billing/usage/checkpoints/current"): Endpoint(
        "Bytes that checkpoints take.",
        query=requests.StorageQuery,
        answer=types.CurrentCheckpointStorageUsageResponse,
    ),
    ("post", "/api/v1/create_session"): Endpoint(
        "Opens a session.", body=types.CreateSessionRequest, answer=types.CreateSessionResponse
    ),
    ("post", "/api/v1/session_heartbeat"): Endpoint(
        "Keeps a session alive.",
        body=types.SessionHeartbeatRequest,
        answer=types.SessionHeartbeatResponse,
    ),
    ("post", "/api/v1/sessions/{session_id}/finish"): Endpoint(
        "Ends a session.",
        body=requests.FinishSessionRequest,
        answer=_constant(type="finish_session"),
    ),
    ("post", "/api/v1/create_model"): Endpoint(
        "Makes an adapter; a promise.", body=types.CreateModelRequest, answer=PROMISE
    ),
    ("post", "/api/v1/create_custom_loss"): Endpoint(
        "Keeps a loss as a graph; a promise.",
        body=types.CreateCustomLossRequest,
        answer=PROMISE,
    ),
    ("post", "/api/v1/get_info"): Endpoint(
        "What a model is.", body=types.GetInfoRequest, answer=types.GetInfoResponse
    ),
    ("post", "/api/v1/unload_model"): Endpoint(
        "Forgets a model; a promise.", body=requests.UnloadModelRequest, answer=PROMISE
    ),
    ("post", "/api/v1/forward_backward"): Endpoint("Adds a gradient; a promise.", **_TRAINING),
    ("post", "/api/v1/forward"): Endpoint("Evaluates; a promise.", **_TRAINING),
    ("post", "/api/v1/ext/retained_forward"): Endpoint(
        "Evaluates and keeps the graph; a promise.", query=requests.RetainQuery, **_TRAINING
    ),
    ("post", "/api/v1/ext/retained_backward"): Endpoint(
        "Adds a gradient through a kept graph; a promise.",
        query=requests.UseGraphQuery,
        **_TRAINING,
    ),
    ("post", "/api/v1/ext/adapter_terms"): Endpoint(
        "Adds gradients of terms on the parameters; a promise.",
        body=types.AdapterTermsRequest,
        answer=PROMISE,
    ),
    ("post", "/api/v1/optim_step"): Endpoint(
        "Steps on the gradient; a promise.", body=requests.OptimStepBody, answer=PROMISE
    ),
    ("post", "/api/v1/save_weights"): Endpoint(
        "Saves a training checkpoint; a promise.", body=types.SaveWeightsRequest, answer=PROMISE
    ),
    ("post", "/api/v1/save_weights_for_sampler"): Endpoint(
        "Saves weights to sample from; a promise.",
        body=types.SaveWeightsForSamplerRequest,
        answer=PROMISE,
    ),
    ("post", "/api/v1/save_weights_external"): Endpoint(
        "Exports a Hugging Face adapter folder; a promise.",
        body=types.SaveWeightsExternalRequest,
        answer=PROMISE,
    ),
    ("post", "/api/v1/load_weights"): Endpoint(
        "Loads a training checkpoint; a promise.", body=types.LoadWeightsRequest, answer=PROMISE
    ),
    ("post", "/api/v1/retrieve_future"): Endpoint(
        "The result of a promise; held back until it is there, or for a while.",
        body=types.FutureRetrieveRequest,
        answer=ANY_OBJECT,
        other_answers={
            "200": {PROTOBUF: BINARY},
            "408": {JSON: types.TryAgainResponse},
        },
    ),
    ("post", "/api/v1/retrieve_futures"): Endpoint(
        "What was finished of a sampling session.",
        body=requests.RetrieveFuturesRequest,
        answer=_object(completions={"type": "array", "items": COMPLETION}, cursor=WHOLE_NUMBER),
    ),
    ("post", "/api/v1/cancel_future"): Endpoint(
        "Gives up a sample.", body=requests.CancelFutureRequest
    ),
    ("post", "/api/v1/create_sampling_session"): Endpoint(
        "Opens something to sample from.",
        body=types.CreateSamplingSessionRequest,
        answer=types.CreateSamplingSessionResponse,
    ),
    ("get", "/api/v1/samplers/{sampler_id}"): Endpoint(
        "What a sampling session samples from.", answer=types.GetSamplerResponse
    ),
    ("post", "/api/v1/join_sampling_session"): Endpoint(
        "A number of its own for one more client of a sampling session.",
        body=requests.JoinSamplingSessionRequest,
        answer=_object(type={"const": "join_sampling_session"}, client_counter=WHOLE_NUMBER),
    ),
    ("post", "/api/v1/asample"): Endpoint(
        "Samples; a promise.", body=types.SampleRequest, answer=PROMISE
    ),
    ("post", "/api/v1/ext/stream_sample"): Endpoint(
        "Samples, and sends the tokens as they are drawn: one JSON object a line.",
        body=types.SampleRequest,
        other_answers={"200": {"application/x-ndjson": BINARY}},
    ),
    ("get", "/api/v1/training_runs"): Endpoint(
        "Runs, newest first.", query=requests.RunsQuery, answer=types.TrainingRunsResponse
    ),
    ("get", "/api/v1/training_runs/{run_id}"): Endpoint(
        "One run.", query=requests.ScopeQuery, answer=types.TrainingRun
    ),
    ("get", "/api/v1/sessions"): Endpoint(
        "Sessions, newest first.",
        query=requests.SessionsQuery,
        answer=types.ListSessionsResponse,
    ),
    ("post", "/api/v1/sessions/search"): Endpoint(
        "Finds sessions.", body=types.SessionSearchRequest, answer=types.SessionSearchResponse
    ),
    ("get", "/api/v1/sessions/{session_id}"): Endpoint(
        "One session.", query=requests.ScopeQuery, answer=types.GetSessionResponse
    ),
    ("put", "/api/v1/sessions/{session_id}/project"): Endpoint(
        "Moves a session to a project.", body=types.SessionProjectRequest
    ),
    ("get", "/api/v1/sessions/{session_id}/trace_export"): Endpoint(
        "Refused in its answer: no traces are recorded.", answer=types.SessionTraceExportResponse
    ),
    ("get", "/api/v1/training_runs/{run_id}/checkpoints"): Endpoint(
        "A run's checkpoints.", answer=types.CheckpointsListResponse
    ),
    ("get", "/api/v1/checkpoints"): Endpoint(
        "Checkpoints, newest first.",
        query=requests.CheckpointsQuery,
        answer=types.CheckpointsListResponse,
    ),
    ("post", "/api/v1/weights_info"): Endpoint(
        "What a checkpoint is of.",
        body=types.WeightsInfoRequest,
        answer=types.WeightsInfoResponse,
    ),
    ("delete", CHECKPOINT): Endpoint("Deletes a checkpoint."),
    ("post", f"{CHECKPOINT}/publish"): Endpoint("Lets other accounts load it."),
    ("delete", f"{CHECKPOINT}/publish"): Endpoint("Lets them no more."),
    ("put", f"{CHECKPOINT}/ttl"): Endpoint("How long it is kept.", body=types.CheckpointTtlRequest),
    ("get", f"{CHECKPOINT}/archive"): Endpoint(
        "Where its files can be fetched as one tar.",
        answer=types.CheckpointArchiveUrlResponse,
        other_answers={"302": {JSON: types.CheckpointArchiveUrlResponse}},
    ),
    ("get", f"{CHECKPOINT}/external_weights_urls"): Endpoint(
        "Where the files of an external checkpoint are.", answer=types.ExternalWeightsUrlsResponse
    ),
    ("post", "/api/v1/copy_weights"): Endpoint(
        "Copies a checkpoint.", body=types.CopyWeightsRequest, answer=types.CopyWeightsResponse
    ),
    ("get", "/api/v1/archives"): Endpoint(
        "A tar, or one file, by a signed link.",
        query=requests.ArchiveQuery,
        other_answers={
            "200": {"application/x-tar": BINARY, "application/octet-stream": BINARY},
            "206": {"application/x-tar": BINARY, "application/octet-stream": BINARY},
        },
    ),
    ("post", "/api/v1/ext/keys"): Endpoint(
        "Makes a key (operator).", body=requests.CreateKeyRequest, answer=types.CreatedKey
    ),
    ("get", "/api/v1/ext/keys"): Endpoint("All keys (operator).", answer=types.KeysResponse),
    ("delete", "/api/v1/ext/keys/{key_id}"): Endpoint("Revokes a key (operator)."),
}
