"""HTTP routes of the service, one module a noun; each has `make_routes(service)`."""

from tinsmith.server.routes import (
    account,
    basics,
    checkpoints,
    extensions,
    futures,
    keys,
    runs,
    sampling,
    sessions,
    training,
)

__all__ = [
    "account",
    "basics",
    "checkpoints",
    "extensions",
    "futures",
    "keys",
    "runs",
    "sampling",
    "sessions",
    "training",
]
