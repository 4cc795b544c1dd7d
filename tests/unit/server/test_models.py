"""Models: what becomes of their work when sessions end, and which fields go together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.server.fakes import ManualEngine
from tinsmith.server.config import ServerLimits
from tinsmith.server.dispatcher import Dispatcher
from tinsmith.server.errors import RequestError
from tinsmith.server.futures import FutureStore
from tinsmith.server.messages import ReleaseSnapshot
from tinsmith.server.models import ModelRegistry
from tinsmith.server.registry import ServiceParts
from tinsmith.server.sessions import SessionRegistry
from tinsmith.server.snapshots import SnapshotCache
from tinsmith.server.store import MemoryStore, ModelRecord
from tinsmith.types import (
    AdamOptimizerConfig,
    LoadWeightsRequest,
    LoraConfig,
    SaveWeightsForSamplerRequest,
)

PATH = "tinker://run/weights/a"


class Models:
    """A registry with one model, in front of an engine that answers by hand."""

    def __init__(self) -> None:
        limits = ServerLimits()
        store = MemoryStore()
        futures = FutureStore(keep_s=60, max_bytes=2**20)
        self.engine = ManualEngine()
        self.sessions = SessionRegistry(store, limits, on_end=lambda _: None)
        self.session_id = self.sessions.open([], {}).session_id
        self.model_id = f"{self.session_id}:train:0"
        unit = SimpleNamespace(
            dispatcher=Dispatcher(self.engine, futures, limits),
            snapshots=SnapshotCache(self.engine, capacity=8),
        )
        unit.dispatcher.open_lane(self.model_id, self.session_id)
        unit.dispatcher.skip(self.model_id, 0)  # it is created
        store.add_model(
            ModelRecord(
                self.model_id,
                self.session_id,
                "tiny",
                LoraConfig(rank=4),
                None,
                cast("Any", unit),  # Any: the parts of a unit that models use
                AdamOptimizerConfig(),
            )
        )
        rest: dict[str, Any] = dict.fromkeys(("catalog", "engines", "checkpoints"))
        parts = ServiceParts(store=store, sessions=self.sessions, futures=futures, **rest)
        self.registry = ModelRegistry(parts, cast("Any", None))  # Any: it loses nothing of its own


@pytest.mark.parametrize("kind", ["snapshot", "inflight"])
async def test_a_snapshot_taken_as_its_session_ended_leaves_the_engine(kind: Any) -> None:
    models = Models()
    body = SaveWeightsForSamplerRequest(
        model_id=models.model_id, seq_id=1, sampling_session_seq_id=0, kind=kind
    )
    models.registry.save_weights_for_sampler(body, digest="")
    models.sessions.finish(models.session_id, "success")
    models.engine.answer("snapshot-1")
    assert ReleaseSnapshot("snapshot-1", 1) in models.engine.history


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("session_id", "s"),
        ("model_seq_id", 0),
        ("base_model", "tiny"),
        ("optimizer_config", AdamOptimizerConfig()),
        ("user_metadata", {"a": 1}),
    ],
)
async def test_loading_into_a_model_takes_no_field_of_a_new_one(field: str, value: object) -> None:
    models = Models()
    fields: dict[str, Any] = {"model_id": models.model_id, "seq_id": 1, "path": PATH, field: value}
    with pytest.raises(RequestError, match="must be left out with model_id") as caught:
        models.registry.load_into(LoadWeightsRequest(**fields), digest="")
    assert caught.value.field == field


async def test_a_new_models_load_takes_no_place_in_a_lane() -> None:
    models = Models()
    body = LoadWeightsRequest(session_id=models.session_id, model_seq_id=1, seq_id=1, path=PATH)
    with pytest.raises(RequestError, match="seq_id: must be left out") as caught:
        models.registry.load_new(body, digest="")
    assert caught.value.field == "seq_id"


async def test_unloading_again_is_answered_with_the_first_promise() -> None:
    models = Models()
    request_id = models.registry.unload(models.model_id)
    assert models.registry.unload(models.model_id) == request_id
    models.engine.answer()
    assert models.registry.unload(models.model_id) == request_id
    assert len(models.engine.history) == 1
