"""`tinsmith serve`: the service as a process of its own, for other processes and other people."""

import logging
from pathlib import Path

import click

from tinsmith.core import environment, paths
from tinsmith.core.errors import ConfigError, missing_extra

__all__ = ["serve"]

DEFAULT_PORT = 8000


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_PORT,
    show_default=True,
    help="TCP port; 0 takes a free one.",
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="A base model to serve; may be repeated. Without it: any model on this machine.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Checkpoints and state; default: under TINSMITH_HOME.",
)
@click.option(
    "--database-url",
    metavar="URL",
    help="Metadata database, postgresql://...; default: a SQLite file in the state folder.",
)
@click.option(
    "--api-key",
    metavar="KEY",
    help="What clients must send; default: TINSMITH_API_KEY. Needed beyond this machine.",
)
@click.option("--device", metavar="DEVICE", help="Torch device, such as cpu or cuda:0.")
@click.option(
    "--seq-gap-timeout",
    "seq_gap_timeout_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long a model's requests wait for a missing one before them; default: 120.",
)
@click.option(
    "--max-graph-bytes",
    type=click.IntRange(0),
    metavar="BYTES",
    help="Forward graphs kept for custom losses; default: 2 GiB an engine. 0 keeps none.",
)
@click.option(
    "--graph-ttl",
    "graph_ttl_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long such a graph waits for its backward; default: 600.",
)
def serve(
    host: str,
    port: int,
    models: tuple[str, ...],
    state_dir: Path | None,
    database_url: str | None,
    api_key: str | None,
    device: str | None,
    **limits: float | None,
) -> int:
    """Serve models to many people.

    Clients find the service through TINSMITH_BASE_URL. Ctrl-C stops it.
    """
    try:
        from tinsmith.server.config import ServerConfig, ServerLimits
        from tinsmith.server.serving import serve as serve_here
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tinsmith"):
            raise
        raise missing_extra(str(error.name), "engine") from error
    if api_key == "":
        raise ConfigError("api_key='': must not be empty", field="api_key", hint="give --api-key")
    given = {name: value for name, value in limits.items() if value is not None}
    config = ServerConfig(
        host=host,
        port=port,
        models=models,
        state_dir=state_dir or paths.state_dir(),
        database_url=database_url,
        api_key=api_key or environment.api_key(),
        device=device,
        limits=ServerLimits.model_validate(given),
    )
    _announce_at_info()
    return serve_here(config)


def _announce_at_info() -> None:
    """Show where the service listens, unless TINSMITH_LOG has said what to show."""
    if environment.log_level() is None:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("tinsmith").setLevel(logging.INFO)
