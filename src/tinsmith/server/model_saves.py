"""What a save does: the checks of its request, the engine's command, and what is noted afterwards.

Main name: `ModelSaves`, whose methods make the work of one request each.
"""

from __future__ import annotations

from datetime import UTC, datetime

from tinsmith.server import messages
from tinsmith.server.checkpoint_admin import check_ttl, expiry_of
from tinsmith.server.checkpoints import (
    CheckpointPath,
    CheckpointRecord,
    CheckpointStore,
    check_name,
)
from tinsmith.server.dispatcher import Work
from tinsmith.server.encryption import check_recipients
from tinsmith.server.errors import RequestError
from tinsmith.server.futures import Outcome
from tinsmith.server.store import MemoryStore, ModelRecord, SamplerRecord
from tinsmith.types import (
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)


class ModelSaves:
    """Makes the work of saving models. Lives on the event loop."""

    def __init__(self, store: MemoryStore, checkpoints: CheckpointStore) -> None:
        self._store = store
        self._checkpoints = checkpoints

    def training(self, model: ModelRecord, body: SaveWeightsRequest) -> Work:
        """A training checkpoint."""
        check_ttl(body.ttl_seconds)
        if body.path is None:
            raise RequestError("path: missing", field="path", hint="name the checkpoint")
        name = check_name(body.path, field="path")
        path = CheckpointPath(model.model_id, "weights", name)
        directory = self._checkpoints.directory(path)
        record = _checkpoint_record(model, path, body)
        command = messages.SaveState(model.model_id, directory, body.overwrite, _dumped(record))
        answer = {"type": "save_weights", "path": str(path)}

        def encode(_: object) -> Outcome:
            self._store.add_checkpoint(record.row(self._checkpoints.size_bytes(path)))
            return Outcome.from_json(answer)

        return Work("control", command, encode)

    def sampler(
        self, model: ModelRecord, body: SaveWeightsForSamplerRequest, *, digest: str
    ) -> Work:
        """Sampler weights, or a snapshot with a sampling session on it.

        Kind "inflight" also moves the model's earlier sessions of that kind to the snapshot. A
        sample has the weights of the moment it was accepted, to its end.
        """
        if body.kind != "snapshot" and body.path is not None:
            raise RequestError(
                f"kind={body.kind!r}: must be 'snapshot' where the save has a path, since a "
                "checkpoint never changes",
                field="kind",
                hint="leave kind out, or save without a path",
            )
        check_ttl(body.ttl_seconds)
        if (body.path is None) == (body.sampling_session_seq_id is None):
            raise RequestError(
                "path: give exactly one of path and sampling_session_seq_id", field="path"
            )
        if body.path is not None:
            return self._named(model, body.path, body)
        for name in ("ttl_seconds", "user_metadata"):
            if getattr(body, name) is not None:
                raise RequestError(
                    f"{name}: must be left out where the save has no path",
                    field=name,
                    hint="give the save a name in path",
                )
        return self._nameless(model, body, digest)

    def external(self, model: ModelRecord, body: SaveWeightsExternalRequest) -> Work:
        """The adapter in the Hugging Face layout."""
        check_ttl(body.ttl_seconds)
        check_recipients(body.age_encryption_recipients)
        path = CheckpointPath(
            model.model_id, "external_weights", check_name(body.path, field="path")
        )
        record = _checkpoint_record(model, path, body)
        command = messages.SaveExternal(
            model.model_id,
            self._checkpoints.directory(path),
            _dumped(record),
            body.age_encryption_recipients,
        )

        def encode(_: object) -> Outcome:
            size_bytes = self._checkpoints.size_bytes(path)
            self._store.add_checkpoint(record.row(size_bytes))
            answer = {"type": "save_weights_external", "path": str(path)}
            return Outcome.from_json({**answer, "size_bytes": size_bytes})

        return Work("control", command, encode)

    def _named(self, model: ModelRecord, name: str, body: SaveWeightsForSamplerRequest) -> Work:
        path = CheckpointPath(model.model_id, "sampler_weights", check_name(name, field="path"))
        directory = self._checkpoints.directory(path)
        record = _checkpoint_record(model, path, body)
        command = messages.SaveSamplerWeights(model.model_id, directory, _dumped(record))
        answer = {"type": "save_weights_for_sampler", "path": str(path)}

        def encode(snapshot_id: object) -> Outcome:
            self._store.add_checkpoint(record.row(self._checkpoints.size_bytes(path)))
            model.unit.snapshots.add(str(snapshot_id), directory)
            return Outcome.from_json(answer)

        return Work("control", command, encode)

    def _nameless(
        self, model: ModelRecord, body: SaveWeightsForSamplerRequest, digest: str
    ) -> Work:
        number = body.sampling_session_seq_id
        assert number is not None
        self._store.reserve(model.session_id, "sampling_session_seq_id", number, digest=digest)
        sampler_id = f"{model.session_id}:sample:{number}"
        answer = {"type": "save_weights_for_sampler", "sampling_session_id": sampler_id}

        def encode(snapshot_id: object) -> Outcome:
            taken = str(snapshot_id)
            snapshots = model.unit.snapshots
            snapshots.add(taken, None)
            if self._store.sessions[model.session_id].ended is not None:  # nobody can sample on it
                left = self._store.unneeded({taken})
            else:
                record = SamplerRecord(
                    sampler_id,
                    model.session_id,
                    model.base_model,
                    snapshot_id=taken,
                    unit=model.unit,
                    inflight_model_id=model.model_id if body.kind == "inflight" else None,
                )
                self._store.add_sampler(record)
                is_inflight = body.kind == "inflight"
                left = self._store.move_inflight(model.model_id, taken) if is_inflight else set()
            for unneeded in left:
                snapshots.drop(unneeded)
            return Outcome.from_json(answer)

        return Work("control", messages.TakeSnapshot(model.model_id), encode)


def _checkpoint_record(
    model: ModelRecord,
    path: CheckpointPath,
    body: SaveWeightsRequest | SaveWeightsForSamplerRequest | SaveWeightsExternalRequest,
) -> CheckpointRecord:
    return CheckpointRecord(
        path=str(path),
        model_id=model.model_id,
        base_model=model.base_model,
        lora_config=model.lora_config,
        optimizer_config=model.optimizer_config,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        user_metadata=getattr(body, "user_metadata", None),
        key_id=model.key_id,
        expires_at=expiry_of(body.ttl_seconds),
    )


def _dumped(record: CheckpointRecord) -> dict[str, object]:
    return record.model_dump(mode="json", exclude_none=True)
