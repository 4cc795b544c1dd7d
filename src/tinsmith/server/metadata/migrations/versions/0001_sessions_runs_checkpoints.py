"""Sessions, models, checkpoints, samplers, futures and API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the first tables."""
    op.create_table(
        "boots",
        sa.Column("boot_id", sa.Text, primary_key=True),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("last_seen_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("ended", sa.Text),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("user_metadata", sa.JSON),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_index("ix_sessions_created_at", "sessions", ["created_at"])
    op.create_table(
        "models",
        sa.Column("model_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Integer),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("lora_config", sa.JSON, nullable=False),
        sa.Column("user_metadata", sa.JSON),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("last_request_at", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_index("ix_models_session_id", "models", ["session_id"])
    op.create_index("ix_models_last_request_at", "models", ["last_request_at"])
    _create_checkpoints()
    _create_requests()
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("key_hash", sa.Text, nullable=False, unique=True),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key_id", sa.Integer),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("user_metadata", sa.JSON),
    )
    op.create_index("ix_checkpoints_created_at", "checkpoints", ["created_at"])
    op.create_index("ix_checkpoints_expires_at", "checkpoints", ["expires_at"])
    op.create_index("ix_checkpoints_model_id", "checkpoints", ["model_id", "kind", "created_at"])


def _create_requests() -> None:
    op.create_table(
        "samplers",
        sa.Column("sampler_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("model_path", sa.Text),
        sa.Column("snapshot_id", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ix_samplers_session_id", "samplers", ["session_id"])
    op.create_table(
        "futures",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("media_type", sa.Text),
        sa.Column("payload", sa.LargeBinary),
    )
    op.create_index("ix_futures_expires_at", "futures", ["expires_at"])


def downgrade() -> None:
    """Drops everything."""
    for name in ("api_keys", "futures", "samplers", "checkpoints", "models", "sessions", "boots"):
        op.drop_table(name)
