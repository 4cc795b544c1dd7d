"""HTTP routes of the service, one module a noun; each has `make_router(service)`."""

__all__ = ["basics", "futures", "sampling", "sessions", "training"]
