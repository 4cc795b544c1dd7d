from datetime import UTC, datetime

import pytest

from tinsmith.core.errors import UserError
from tinsmith.types import (
    Checkpoint,
    CheckpointsListResponse,
    CheckpointTtlRequest,
    ParsedCheckpointTinkerPath,
    TrainingRunsResponse,
    WeightsInfoResponse,
)

CHECKPOINT = {
    "checkpoint_id": "sampler_weights/s1",
    "checkpoint_type": "sampler",
    "time": "2026-11-21T07:22:40.320573Z",
    "tinker_path": "tinker://S:train:0/sampler_weights/s1",
    "size_bytes": 12,
    "a_field_of_a_newer_service": 1,
}


def test_a_checkpoint_on_the_wire_has_real_times_and_comes_back_the_same() -> None:
    checkpoint = Checkpoint.model_validate(CHECKPOINT)
    assert checkpoint.time == datetime(2026, 11, 21, 7, 22, 40, 320573, UTC)
    assert (checkpoint.public, checkpoint.expires_at) == (False, None)
    assert checkpoint.model_dump(mode="json")["time"] == CHECKPOINT["time"]
    assert Checkpoint.model_validate_json(checkpoint.model_dump_json()) == checkpoint


def test_a_list_of_checkpoints_may_have_no_cursor() -> None:
    page = CheckpointsListResponse.model_validate({"checkpoints": [CHECKPOINT]})
    assert (len(page.checkpoints), page.cursor) == (1, None)


def test_a_page_of_runs_says_where_it_lies() -> None:
    run = {
        "training_run_id": "S:train:0",
        "base_model": "tinsmith/tiny",
        "model_owner": "me",
        "is_lora": True,
        "last_request_time": "2026-11-21T07:22:40Z",
        "last_sampler_checkpoint": CHECKPOINT,
    }
    cursor = {"offset": 0, "limit": 20, "total_count": 1}
    page = TrainingRunsResponse.model_validate({"training_runs": [run], "cursor": cursor})
    assert page.training_runs[0].last_sampler_checkpoint == Checkpoint.model_validate(CHECKPOINT)
    assert (page.training_runs[0].corrupted, page.cursor.total_count) == (False, 1)


def test_weights_are_of_adamw_unless_said_otherwise() -> None:
    info = WeightsInfoResponse.model_validate({"base_model": "tinsmith/tiny", "is_lora": True})
    assert info.optimizer_config.type == "adamw"


def test_a_removed_ttl_is_said_on_the_wire() -> None:
    assert CheckpointTtlRequest(ttl_seconds=None).model_dump_json() == '{"ttl_seconds":null}'


@pytest.mark.parametrize(
    ("segment", "kind"),
    [("weights", "training"), ("sampler_weights", "sampler"), ("external_weights", "external")],
)
def test_an_address_says_run_kind_and_checkpoint(segment: str, kind: str) -> None:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(f"tinker://S:train:0/{segment}/a b")
    assert parsed.training_run_id == "S:train:0"
    assert (parsed.checkpoint_type, parsed.checkpoint_id) == (kind, f"{segment}/a b")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "S/weights/a",
        "tinker://S/weights",
        "tinker://S/weights/a/b",
        "tinker://S/x/a",
        "tinker:///weights/a",
        "tinker://S/weights/",
    ],
)
def test_anything_else_is_no_address(path: str) -> None:
    with pytest.raises(UserError, match=r"not a checkpoint's address; it has the form tinker://"):
        ParsedCheckpointTinkerPath.from_tinker_path(path)
