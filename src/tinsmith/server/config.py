"""Settings of the service."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from tinsmith.core.errors import ConfigError
from tinsmith.core.paths import state_dir
from tinsmith.types import RequestModel


class ServerLimits(RequestModel):
    """Bounds and times of the service; the defaults fit one machine."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_body_bytes: int = Field(default=256 * 2**20, gt=0)
    """Largest request body, compressed and decompressed alike, in bytes."""
    max_batch_tokens: int = Field(default=16_384, gt=0)
    """Tokens of one training batch over all models; a larger request travels alone."""
    max_batch_requests: int = Field(default=256, gt=0)
    """Requests of one training batch."""
    ahead_min_tokens: int = Field(default=2048, gt=0)
    """A training batch of at least this many tokens is handed over while the engine still works
    on the one before; smaller ones wait a moment for company."""
    max_pending_requests: int = Field(default=20_000, gt=0)
    """Unfinished futures of the whole service; above it submissions are answered 429."""
    long_poll_s: float = Field(default=40.0, ge=0)
    """How long retrieve_future holds a request before it answers 408, in seconds."""
    seq_gap_timeout_s: float = Field(default=120.0, gt=0)
    """How long requests wait for a missing smaller seq_id before they fail, in seconds."""
    result_keep_s: float = Field(default=3600.0, gt=0)
    """How long a finished result can be fetched, in seconds."""
    max_result_bytes: int = Field(default=512 * 2**20, gt=0)
    """Memory of all finished results, in bytes; fetched ones leave it first and stay on disk."""
    max_stored_result_bytes: int = Field(default=4 * 2**30, ge=0)
    """Finished results that left memory and are kept in the metadata database, in bytes."""
    metadata_result_bytes: int = Field(default=8 * 2**20, gt=0)
    """Results above this size are announced by size first where the client allows it."""
    session_timeout_s: float = Field(default=120.0, gt=0)
    """A session without a request or heartbeat for so long counts as away, in seconds."""
    session_release_s: float = Field(default=3600.0, gt=0)
    """A session away for so long is ended and its models leave the engine, in seconds."""
    max_base_models: int = Field(default=4, gt=0)
    """Engine processes at the same time."""
    max_snapshots: int = Field(default=64, gt=0)
    """Sampler snapshots resident in one engine."""
    max_graph_bytes: int | None = Field(default=None, ge=0)
    """Forward graphs that one engine keeps for a backward, in bytes; absent takes the engine's
    own bound, 0 keeps none."""
    graph_ttl_s: float = Field(default=600.0, gt=0)
    """How long a forward graph waits for its backward, in seconds."""
    engine_stop_s: float = Field(default=10.0, gt=0)
    """How long an engine may finish its current work at shutdown, in seconds."""


class ServerConfig(RequestModel):
    """One service: where it listens, what it serves, where it keeps its files."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine itself needs an API key."""
    port: int = Field(default=0, ge=0, le=65_535)
    """TCP port; 0 takes a free one."""
    models: tuple[str, ...] = ()
    """Base models to serve, loaded at start. None given: the bundled model, any local model
    directory and any Hub model in the local cache, loaded on first use."""
    state_dir: Path = Field(default_factory=state_dir)
    """Directory of checkpoints and other state."""
    database_url: str | None = Field(default=None, repr=False)
    """Metadata database: postgresql://user@host/name or sqlite:///path; absent means a SQLite file
    in the state directory."""
    ready_file: Path | None = None
    """Where to write {"url", "pid", "api_key"} (mode 600) once the service listens."""
    idle_exit_s: float | None = Field(default=None, gt=0)
    """Exit after so many seconds without a live session; never when absent."""
    api_key: str | None = None
    """Key that clients must send as X-API-Key; absent means no check."""
    device: str | None = None
    """Torch device of the engines; absent picks the best one."""
    limits: ServerLimits = ServerLimits()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return _is_loopback(self.host)

    @model_validator(mode="after")
    def _require_key_beyond_this_machine(self) -> ServerConfig:
        if self.api_key is None and self.ready_file is None and not self.is_local:
            raise ConfigError(
                f"host={self.host!r}: reachable from other machines, which needs an API key",
                field="host",
                hint="give --api-key, or listen on 127.0.0.1",
            )
        if self.api_key is not None and not self.api_key:
            raise ConfigError("api_key='': must not be empty", field="api_key")
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
