"""`python -m tinsmith.server`: runs the service in the foreground."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tinsmith.core.errors import UserError
from tinsmith.core.paths import state_dir
from tinsmith.server.config import ServerConfig, ServerLimits


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and serves; returns the exit code."""
    options = vars(_parser().parse_args(argv))
    logging.basicConfig(
        level=logging.INFO if options.pop("verbose") else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        limits = ServerLimits(
            **{
                name: options.pop(name)
                for name in ("seq_gap_timeout_s", "max_graph_bytes", "graph_ttl_s")
            }
        )
        models = tuple(options.pop("model") or ())
        config = ServerConfig(models=models, limits=limits, **options)
        from tinsmith.server.serving import serve  # the web framework, once the options are good

        return serve(config)
    except UserError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tinsmith.server", description="Serve base models for fine-tuning."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="base model to serve, may be repeated; without it any model on this machine",
    )
    parser.add_argument("--state-dir", type=Path, default=state_dir(), help="checkpoints and state")
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="metadata database, postgresql://... or sqlite:///...; default: SQLite in --state-dir",
    )
    parser.add_argument("--ready-file", type=Path, help="where to write url, pid and API key")
    parser.add_argument("--idle-exit-s", type=float, help="exit after so long without a session")
    parser.add_argument("--api-key", help="key that clients must send")
    parser.add_argument("--device", help="torch device of the engines")
    parser.add_argument(
        "--seq-gap-timeout-s",
        type=float,
        default=ServerLimits().seq_gap_timeout_s,
        help="how long requests wait for one before them that does not come",
    )
    parser.add_argument(
        "--max-graph-bytes",
        type=int,
        help="forward graphs kept for custom losses; default: 2 GiB an engine",
    )
    parser.add_argument(
        "--graph-ttl-s",
        type=float,
        default=ServerLimits().graph_ttl_s,
        help="how long such a graph waits for its backward",
    )
    parser.add_argument("--verbose", action="store_true", help="log what happens")
    return parser


if __name__ == "__main__":
    sys.exit(main())
