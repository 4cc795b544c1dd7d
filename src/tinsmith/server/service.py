"""The service without HTTP: its parts put together, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from tinsmith.core.errors import ServerError, TinsmithError
from tinsmith.server.access import viewer_of
from tinsmith.server.archives import ArchiveLinks
from tinsmith.server.base_models import BaseModelCatalog
from tinsmith.server.checkpoint_admin import CheckpointAdmin
from tinsmith.server.checkpoints import (
    CheckpointPath,
    CheckpointStore,
    parse_any_checkpoint_path,
)
from tinsmith.server.config import ServerConfig
from tinsmith.server.custom_losses import CustomLossRegistry
from tinsmith.server.engines import EnginePool
from tinsmith.server.errors import ForbiddenError, MissingError
from tinsmith.server.futures import FutureStore
from tinsmith.server.keys import KeyRegistry
from tinsmith.server.metadata import MetadataStore, database, queries
from tinsmith.server.metadata.boots import BootLock
from tinsmith.server.models import ModelRegistry
from tinsmith.server.recording import ServiceRecorder
from tinsmith.server.registry import ServiceParts
from tinsmith.server.restart import StoredResults, take_up
from tinsmith.server.runs import RunCatalog
from tinsmith.server.samplers import SamplerRegistry
from tinsmith.server.sessions import SessionRegistry
from tinsmith.server.store import MemoryStore

EXTENSIONS = ("adapter_terms", "retained_forward", "stream_sample")
"""What lies under `ext/` for clients to look for; no client needs any of it."""


class Service:
    """Everything the routes use. Made and used on one event loop."""

    def __init__(self, config: ServerConfig, metadata: MetadataStore) -> None:
        self.config = config
        self.on_idle: Callable[[], None] | None = None
        self.failure: TinsmithError | None = None
        """Why there is nothing to serve."""
        self.metadata = metadata
        self.futures = FutureStore(
            keep_s=config.limits.result_keep_s,
            max_bytes=config.limits.max_result_bytes,
            max_stored_bytes=config.limits.max_stored_result_bytes,
            writes=metadata,
            find_stored=StoredResults(metadata).find,
        )
        self.store = MemoryStore(metadata, self.futures.boot_id)
        self.catalog = BaseModelCatalog(config.models, is_local=config.is_local)
        self.checkpoints = CheckpointStore(config.state_dir / "checkpoints")
        self.checkpoint_admin = CheckpointAdmin(metadata, self.checkpoints)
        self.store.on_expiring = self.checkpoint_admin.expect
        self.keys = KeyRegistry(metadata, config.api_key)
        self.archive_links = ArchiveLinks()
        self.runs = RunCatalog(metadata, session_timeout_s=config.limits.session_timeout_s)
        self.engines = EnginePool(
            config, self.futures, on_models_lost=self._lose_models, on_no_start=self._give_up
        )
        self.sessions = SessionRegistry(
            self.store,
            config.limits,
            on_end=self._end_session,
            idle_exit_s=config.idle_exit_s,
            on_idle=self._go_idle,
        )
        self.custom_losses = CustomLossRegistry(self.store, self.sessions, self.futures)
        parts = ServiceParts(
            store=self.store,
            sessions=self.sessions,
            futures=self.futures,
            catalog=self.catalog,
            engines=self.engines,
            checkpoints=self.checkpoints,
        )
        self.models = ModelRegistry(parts, self.custom_losses)
        self.samplers = SamplerRegistry(parts, config.limits)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, config: ServerConfig) -> AsyncIterator[Service]:
        """A service whose given models are loading; its engines end with the block."""
        metadata = await MetadataStore.open(
            config.database_url or database.default_url(config.state_dir)
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(metadata.close)
            service = cls(config, metadata)
            boot_id = service.futures.boot_id
            recorder = await asyncio.to_thread(ServiceRecorder.start, config, boot_id)
            if recorder is not None:
                service.futures.recorder = recorder
                stack.push_async_callback(asyncio.to_thread, recorder.close)
            stack.push_async_callback(service._stop)
            for facts in service.catalog.offered if config.models else ():
                service.engines.get(facts)
            stack.callback((await service._start()).release)
            yield service

    async def _start(self) -> BootLock:
        """Takes up what earlier processes left; the returned lock is held while this one lives."""
        boot_id = self.futures.boot_id
        lock = await asyncio.to_thread(BootLock, self.config.state_dir / "boots", boot_id)
        await take_up(
            self.metadata,
            self.store,
            self.sessions,
            self.checkpoints,
            completions=self.samplers.completions,
            boot_id=boot_id,
            living=lock.living if self.metadata.is_shared_by_machine else set,
            limits=self.config.limits,
        )
        await self.checkpoint_admin.reap()
        await self.keys.load()
        return lock

    def release_polls(self) -> None:
        """Lets go of everyone who waits for a result."""
        self.futures.close()
        self.samplers.completions.close()
        self.samplers.close_streams()

    async def _stop(self) -> None:
        self.store.is_closing = True
        self.sessions.close()
        self.release_polls()
        await self.checkpoint_admin.close()
        await self.engines.close()
        with contextlib.suppress(ServerError):  # the database is away: the next start settles it
            end = partial(queries.end_boot, boot_id=self.futures.boot_id, now_s=time.time())
            await self.metadata.run(end)

    def _give_up(self, failure: TinsmithError) -> bool:
        """Ends a service whose given models cannot be loaded; its starter tells the failure.

        One that a client embeds stays, to tell that client why.
        """
        if not self.config.models or self.config.ready_file is not None:
            return False
        self.failure = failure
        self._go_idle()
        return True

    def _lose_models(self, model_ids: list[str]) -> None:
        for model_id in model_ids:
            self.store.note_state(model_id, "lost")

    def capabilities(self) -> dict[str, object]:
        """What the protocol tells about the base models, and what is served beyond it."""
        contexts = {unit.facts.name: unit.max_context_length for unit in self.engines.units}
        return {
            "supported_models": [
                {
                    "model_name": facts.name,
                    "max_context_length": contexts.get(facts.name) or facts.max_context_length,
                    "trainable": True,
                    "sampleable": True,
                }
                for facts in self.catalog.offered
            ],
            "extensions": list(EXTENSIONS),
        }

    def weights_info(self, tinker_path: str) -> dict[str, object]:
        """What the protocol tells about a checkpoint."""
        path = parse_any_checkpoint_path(tinker_path, field="tinker_path")
        record = self.checkpoints.read(path, field="tinker_path")
        lora = record.lora_config
        return {
            "base_model": record.base_model,
            "is_lora": True,
            "lora_rank": lora.rank,
            "train_unembed": lora.train_unembed,
            "train_mlp": lora.train_mlp,
            "train_attn": lora.train_attn,
            "optimizer_config": record.optimizer_config.model_dump(),
        }

    async def check_readable(
        self, path: CheckpointPath, *, field: str, token: str | None = None
    ) -> None:
        """Raises unless the request at hand may load a checkpoint.

        Args:
            path: of the checkpoint.
            field: of the request that names it.
            token: `weights_access_token`, a key of the account that owns the checkpoint.

        Raises:
            MissingError: there is none, or it is somebody else's and not published.
            ForbiddenError: the token is not the owner's.
        """
        viewer = viewer_of("accessible")
        if token is not None:
            viewer = self.keys.viewer_by(token, field="weights_access_token")
        if viewer.key_id is None:
            return
        try:
            await self.checkpoint_admin.find(path, viewer, field=field)
        except (MissingError, ForbiddenError) as error:
            if token is None:
                raise
            raise ForbiddenError(
                f"weights_access_token: is no key of the account that owns {str(path)!r}",
                field="weights_access_token",
                hint="ask the owner for one, or to publish the checkpoint",
            ) from error

    def _end_session(self, session_id: str) -> None:
        self.models.end_session(session_id)
        self.samplers.end_session(session_id)
        self.custom_losses.end_session(session_id)
        self.store.forget_session(session_id)

    def _go_idle(self) -> None:
        if self.on_idle is not None:
            self.on_idle()
