"""What the registries of models and of samplers share: the parts of the service that they use."""

from __future__ import annotations

from dataclasses import dataclass

from tinsmith.server.base_models import BaseModelCatalog
from tinsmith.server.checkpoints import CheckpointStore
from tinsmith.server.engines import EnginePool
from tinsmith.server.futures import FutureStore
from tinsmith.server.sessions import SessionRegistry
from tinsmith.server.store import MemoryStore


@dataclass(frozen=True)
class ServiceParts:
    """The parts of one service."""

    store: MemoryStore
    sessions: SessionRegistry
    futures: FutureStore
    catalog: BaseModelCatalog
    engines: EnginePool
    checkpoints: CheckpointStore


class Registry:
    """Things that live in an engine, at the wish of a session."""

    def __init__(self, parts: ServiceParts) -> None:
        self._store = parts.store
        self._sessions = parts.sessions
        self._futures = parts.futures
        self._catalog = parts.catalog
        self._engines = parts.engines
        self._checkpoints = parts.checkpoints
