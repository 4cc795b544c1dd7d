"""HTTP routes of the service, one module a noun; each has `make_router(service)`."""

from tinsmith.server.routes import (
    account,
    basics,
    checkpoints,
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
    "futures",
    "keys",
    "runs",
    "sampling",
    "sessions",
    "training",
]
