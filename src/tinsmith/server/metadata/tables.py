"""The tables of the metadata database.

Times are seconds since 1970 (UTC) as doubles: they compare and sort alike in every database. JSON
columns hold users' own documents. Rows refer to each other by id without constraints, because they
are written in batches whose order between tables does not matter.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s"})

boots = Table(
    "boots",
    metadata,
    Column("boot_id", Text, primary_key=True),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
)
"""Processes of the service, so that what died with one can be told from what lives."""

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("boot_id", Text, nullable=False),
    Column("key_id", Integer),
    Column("created_at", Double, nullable=False, index=True),
    Column("last_seen_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("ended", Text),
    Column("tags", JSON, nullable=False),
    Column("user_metadata", JSON),
    Column("details", JSON, nullable=False),
)
"""Clients' sessions; `ended` says why one is over, `details` what else its client told."""

models = Table(
    "models",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("session_id", Text, nullable=False, index=True),
    Column("boot_id", Text, nullable=False),
    Column("key_id", Integer),
    Column("base_model", Text, nullable=False),
    Column("lora_config", JSON, nullable=False),
    Column("user_metadata", JSON),
    Column("created_at", Double, nullable=False),
    Column("last_request_at", Double, nullable=False, index=True),
    Column("state", Text, nullable=False),
)
"""Training runs; `state` is creating, live, unloaded, failed or lost (with its process)."""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("path", Text, primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key_id", Integer),
    Column("base_model", Text, nullable=False),
    Column("created_at", Double, nullable=False, index=True),
    Column("size_bytes", BigInteger),
    Column("is_public", Boolean, nullable=False),
    Column("expires_at", Double, index=True),
    Column("user_metadata", JSON),
    Index("ix_checkpoints_model_id", "model_id", "kind", "created_at"),
)
"""Checkpoints by their `tinker://` path."""

samplers = Table(
    "samplers",
    metadata,
    Column("sampler_id", Text, primary_key=True),
    Column("session_id", Text, nullable=False, index=True),
    Column("base_model", Text, nullable=False),
    Column("model_path", Text),
    Column("snapshot_id", Text),
    Column("created_at", Double, nullable=False),
)
"""Sampling sessions; one with a snapshot and no path samples from weights in memory only."""

futures = Table(
    "futures",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("boot_id", Text, nullable=False),
    Column("owner_id", Text),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, index=True),
    Column("media_type", Text),
    Column("payload", LargeBinary),
)
"""Accepted requests; `payload` is the encoded result once there is one, `owner_id` the model or
sampler it was for."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Integer, primary_key=True),
    Column("key_hash", Text, nullable=False, unique=True),
    Column("prefix", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)
"""API keys by their hash; the key itself is shown once and never stored."""
