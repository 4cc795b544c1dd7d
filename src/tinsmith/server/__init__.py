"""The service: an API process over HTTP, and one engine process for each base model.

`python -m tinsmith.server` runs it; `serving.serve(ServerConfig(...))` does the same in this
process. The parts, from the wire inwards: `app` and `routes`, `service` with its registries of
sessions, models and samplers, `dispatcher` with `lanes` and `scheduler`, `engine_client` and
`engine_process`.
"""

from tinsmith.server.config import ServerConfig, ServerLimits

__all__ = ["ServerConfig", "ServerLimits"]
