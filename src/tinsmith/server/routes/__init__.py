"""HTTP routes of the service, one module a noun; each has `make_router(service)`."""

from tinsmith.server.routes import basics, futures, sampling, sessions, training

__all__ = ["basics", "futures", "sampling", "sessions", "training"]
