"""The engines of the service, one process a base model, and what stands in front of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tinsmith.core.errors import TinsmithError
from tinsmith.engine.jobs import BaseModelInfo
from tinsmith.server.base_models import BaseModelFacts
from tinsmith.server.config import ServerConfig
from tinsmith.server.dispatcher import Dispatcher
from tinsmith.server.engine_client import EngineClient
from tinsmith.server.errors import LostError, RequestError
from tinsmith.server.futures import FutureStore
from tinsmith.server.messages import EngineSettings
from tinsmith.server.snapshots import SnapshotCache

logger = logging.getLogger(__name__)


class EngineUnit:
    """One engine process with its queues and its snapshots."""

    def __init__(
        self,
        facts: BaseModelFacts,
        config: ServerConfig,
        futures: FutureStore,
        on_exit: Callable[[EngineUnit, list[str]], None],
    ) -> None:
        self.facts = facts
        self._on_exit = on_exit
        self.client = EngineClient(
            EngineSettings(
                facts.name, config.device, config.limits.max_graph_bytes, config.limits.graph_ttl_s
            ),
            on_ready=self._ready,
            on_exit=self._exited,
        )
        self.dispatcher = Dispatcher(self.client, futures, config.limits)
        self.snapshots = SnapshotCache(self.client, config.limits.max_snapshots)

    @property
    def info(self) -> BaseModelInfo | None:
        """What the engine says about its base model, once it is loaded."""
        return self.client.info

    @property
    def arch(self) -> str:
        """Architecture family of the base model."""
        return self.info.arch if self.info else self.facts.arch

    @property
    def vocab_size(self) -> int | None:
        """Token ids a request may use are below this."""
        return self.info.vocab_size if self.info else self.facts.vocab_size

    @property
    def max_context_length(self) -> int | None:
        """Longest sequence, in tokens."""
        return self.info.max_context_length if self.info else self.facts.max_context_length

    def _ready(self, info: BaseModelInfo) -> None:
        logger.info("base_model=%r is loaded: %d parameters", info.name, info.num_parameters)

    def _exited(self, failure: TinsmithError) -> None:
        lane_ids = self.dispatcher.lane_ids
        lost = [name for name in lane_ids if self.dispatcher.closed_error(name) is None]
        self._on_exit(self, lost)
        for lane_id in lane_ids:
            error = LostError(
                f"model_id={lane_id!r}: {failure.message}", field="model_id", hint=failure.hint
            )
            self.dispatcher.close_lane(lane_id, error)


class EnginePool:
    """Engines by base model, started on first use and again after a death."""

    def __init__(
        self,
        config: ServerConfig,
        futures: FutureStore,
        *,
        on_models_lost: Callable[[list[str]], None] = lambda _: None,
        on_no_start: Callable[[TinsmithError], bool] = lambda _: False,
    ) -> None:
        """No engine runs yet.

        Args:
            config: of the service.
            futures: where results go.
            on_models_lost: hears which models died with an engine.
            on_no_start: hears why the last engine did not load, where none ever did; True means
                that it says so itself.
        """
        self._config = config
        self._on_models_lost = on_models_lost
        self._on_no_start = on_no_start
        self._has_loaded = False
        self._futures = futures
        self._units: dict[str, EngineUnit] = {}
        self._is_closing = False

    @property
    def units(self) -> list[EngineUnit]:
        """The living engines."""
        return list(self._units.values())

    def get(self, facts: BaseModelFacts) -> EngineUnit:
        """The engine of a base model; starts it when there is none.

        Raises:
            RequestError: as many engines run as may.
        """
        unit = self._units.get(facts.name)
        if unit is None:
            limit = self._config.limits.max_base_models
            if len(self._units) >= limit or self._is_closing:
                raise RequestError(
                    f"base_model={facts.name!r}: {len(self._units)} base models are loaded, must "
                    f"be at most {limit}",
                    field="base_model",
                    hint=f"use one of: {', '.join(self._units)}",
                )
            unit = EngineUnit(facts, self._config, self._futures, self._forget)
            self._units[facts.name] = unit
        return unit

    async def close(self) -> None:
        """Ends every engine."""
        self._is_closing = True
        grace_s = self._config.limits.engine_stop_s
        await asyncio.gather(*(unit.client.stop(grace_s) for unit in self.units))

    def _forget(self, unit: EngineUnit, lost_models: list[str]) -> None:
        self._on_models_lost(lost_models)
        if self._units.get(unit.facts.name) is unit:
            del self._units[unit.facts.name]
        self._has_loaded |= unit.info is not None
        failure = unit.client.failure
        if self._is_closing or failure is None:
            return
        is_hopeless = not self._units and not self._has_loaded
        if not (is_hopeless and self._on_no_start(failure)):
            logger.error("%s", failure)
