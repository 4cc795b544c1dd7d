"""Alembic's entry: runs the migrations on the connection that the caller put into the config."""

from alembic import context

from tinsmith.server.metadata.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
