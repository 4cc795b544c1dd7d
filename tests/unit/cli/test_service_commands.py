"""models, checkpoints and sessions against a recorded service: what is sent, shown and refused."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from tests.unit.client.recording_server import RecordingServer, Reply, recording_server
from tinsmith.cli import checkpoints_delete, main
from tinsmith.cli.app import tinsmith
from tinsmith.cli.auth import COMMANDS as AUTH_COMMANDS
from tinsmith.cli.checkpoints import COMMANDS as CHECKPOINT_COMMANDS
from tinsmith.cli.checkpoints import parse_duration_s
from tinsmith.cli.checkpoints_delete import parse_date
from tinsmith.cli.checkpoints_download import directory_name
from tinsmith.cli.keys import COMMANDS as KEY_COMMANDS
from tinsmith.cli.lazy import LazyGroup
from tinsmith.cli.models import COMMANDS as MODEL_COMMANDS
from tinsmith.cli.sessions import COMMANDS as SESSION_COMMANDS
from tinsmith.core.errors import ConfigError, UserError

GROUPS = {
    "models": MODEL_COMMANDS,
    "checkpoints": CHECKPOINT_COMMANDS,
    "sessions": SESSION_COMMANDS,
    "auth": AUTH_COMMANDS,
    "keys": KEY_COMMANDS,
}
RUN = "S:train:0"
NOW = datetime.now(UTC)


def checkpoint(name: str, kind: str = "weights", **fields: Any) -> dict[str, Any]:
    types = {"weights": "training", "sampler_weights": "sampler"}
    made = {
        "checkpoint_id": f"{kind}/{name}",
        "checkpoint_type": types[kind],
        "time": (NOW - timedelta(hours=3, minutes=1)).isoformat(),
        "tinker_path": f"tinker://{RUN}/{kind}/{name}",
        "size_bytes": 1536,
    }
    return made | fields


def run(number: int = 0, **fields: Any) -> dict[str, Any]:
    made = {
        "training_run_id": f"S:train:{number}",
        "base_model": "tinsmith/tiny",
        "model_owner": "me",
        "is_lora": True,
        "lora_rank": 8,
        "last_request_time": (NOW - timedelta(days=2, minutes=1)).isoformat(),
    }
    return made | fields


def page(key: str, items: list[Any], total: int | None = None) -> Reply:
    cursor = {"offset": 0, "limit": 20, "total_count": len(items) if total is None else total}
    return Reply(body={key: items, "cursor": cursor})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingServer]:
    with recording_server() as server:
        monkeypatch.setenv("TINSMITH_BASE_URL", server.url)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        yield server


def paths(server: RecordingServer) -> list[str]:
    return [path for path in server.paths() if path != "client/config"]


@pytest.mark.parametrize("group", GROUPS)
def test_the_tables_of_commands_say_what_each_command_says(group: str) -> None:
    context = click.Context(tinsmith)
    command = tinsmith.get_command(context, group)
    assert isinstance(command, LazyGroup)
    for name, entry in GROUPS[group].items():
        found = command.get_command(context, name)
        assert found is not None
        assert found.name == name
        assert found.get_short_help_str(limit=200).rstrip(".").startswith(entry.summary.rstrip("."))


def test_help_texts_are_as_people_last_read_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, golden: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for group, commands in GROUPS.items():
        for name in commands:
            assert main([group, name, "--help"]) == 0
            shown[f"tinsmith {group} {name}"] = capsys.readouterr().out.splitlines()
    golden("cli_service_help.json", shown)


# models ---------------------------------------------------------------------------------------


def test_models_are_listed_in_a_table(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script(
        "training_runs?limit=2&offset=0&access_scope=owned",
        page("training_runs", [run(), run(1, corrupted=True)], total=7),
    )
    assert main(["models", "list", "--limit", "2"]) == 0
    shown, told = capsys.readouterr()
    assert shown.startswith("2 training runs (5 more not shown; --limit 0: all)\n")
    assert [cell.strip() for cell in shown.splitlines()[5].split("│")[1:-1]] == [
        "S:train:1",
        "tinsmith/tiny",
        "rank 8",
        "2 days ago",
        "lost",
    ]
    assert told == ""


def test_the_base_models_on_offer_are_listed(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    offer = {
        "supported_models": [
            {"model_name": "lab/Big-8B", "max_context_length": 32768, "trainable": True},
            {"model_name": "lab/small", "sampleable": False},
        ]
    }
    server.script("get_server_capabilities", Reply(body=offer), Reply(body=offer))
    assert main(["models", "offered"]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "lab" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["lab/Big-8B", "32,768", "yes", "-"],
        ["lab/small", "-", "-", "no"],
    ]
    assert main(["models", "offered", "BIG", "--json"]) == 0
    assert [model["model_name"] for model in json.loads(capsys.readouterr().out)["models"]] == [
        "lab/Big-8B"
    ]


def test_all_models_are_read_page_by_page(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for offset in (0, 100):
        runs = [run(number) for number in range(offset, min(offset + 100, 130))]
        server.script(
            f"training_runs?limit=100&offset={offset}&access_scope=accessible&project_id=p",
            page("training_runs", runs, total=130),
        )
    words = ["models", "list", "--limit", "0", "--accessible", "--project-id", "p", "--json"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [len(shown["training_runs"]), shown["total_count"]] == [130, 130]
    assert shown["training_runs"][0]["last_request_time"].endswith("Z")  # ISO 8601


def test_columns_are_chosen_by_name_and_a_wrong_one_is_a_usage_error(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = page("training_runs", [run(last_checkpoint=checkpoint("s1"))])
    server.script("training_runs?limit=20&offset=0&access_scope=owned", found)
    assert main(["models", "list", "-c", "id,checkpoint,checkpoint_time"]) == 0
    shown = capsys.readouterr().out
    assert "weights/s1" in shown
    assert "3 hours ago" in shown
    assert main(["models", "list", "-c", "id,statsu"]) == 2
    assert capsys.readouterr().err.endswith("hint: did you mean 'status'?\n")


def test_a_model_is_found_by_its_id_and_by_a_checkpoint(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"training_runs/{RUN}?access_scope=owned"
    server.script(place, Reply(body=run(user_metadata={"task": "sums"})), Reply(body=run()))
    assert main(["models", "info", RUN]) == 0
    assert "metadata task  sums" in capsys.readouterr().out
    assert main(["models", "info", f"tinker://{RUN}/weights/s1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training_run_id"] == RUN


def test_what_the_service_refuses_is_one_line_and_a_hint(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"message": "training_run_id='x': unknown", "hint": "list the training runs"}
    server.script("training_runs/x?access_scope=owned", Reply(404, body))
    assert main(["models", "info", "x"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.endswith("\nhint: list the training runs\n")
    assert len(told.splitlines()) == 2


# checkpoints ----------------------------------------------------------------------------------


def test_checkpoints_are_listed_of_all_runs_or_of_one(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    expiring = checkpoint("b", expires_at=(NOW + timedelta(days=3, minutes=5)).isoformat())
    server.script("checkpoints?limit=20&offset=0", page("checkpoints", [expiring]))
    assert main(["checkpoints", "list"]) == 0
    shown = capsys.readouterr().out
    assert "1.5 KiB" in shown
    assert "in 3 days" in shown
    older = checkpoint("a", time="2026-01-01T00:00:00Z")
    server.script(
        f"training_runs/{RUN}/checkpoints", Reply(body={"checkpoints": [older, expiring]})
    )
    assert main(["checkpoints", "list", "--run-id", RUN, "--limit", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["checkpoint_id"] for each in found.pop("checkpoints")] == ["weights/b"]
    assert found == {"run_id": RUN, "total_count": 2}


def test_a_checkpoint_is_shown_with_what_it_holds(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint("a")["tinker_path"]
    found = Reply(body={"checkpoints": [checkpoint("a")]})
    server.script(f"training_runs/{RUN}/checkpoints", found, found, found)
    weights = {"base_model": "tinsmith/tiny", "is_lora": True, "lora_rank": 8, "train_mlp": True}
    server.script("weights_info", Reply(body=weights), Reply(body=weights))
    assert main(["checkpoints", "info", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lora_rank"] == 8
    assert main(["checkpoints", "info", path]) == 0
    assert "Trained     MLP\n" in capsys.readouterr().out
    assert main(["checkpoints", "info", path + "b"]) == 1
    assert f"hint: tinsmith checkpoints list --run-id {RUN}" in capsys.readouterr().err


def test_changes_of_a_checkpoint_are_sent_and_say_nothing(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    path, place = checkpoint("a")["tinker_path"], f"training_runs/{RUN}/checkpoints/weights/a"
    server.script(f"{place}/publish", Reply(204, b""), Reply(204, b""))
    server.script(f"{place}/ttl", Reply(204, b""), Reply(204, b""))
    assert main(["checkpoints", "publish", path]) == 0
    assert main(["checkpoints", "unpublish", path]) == 0
    assert main(["checkpoints", "ttl", path, "--ttl", "2h"]) == 0
    assert main(["checkpoints", "ttl", path, "--remove"]) == 0
    assert [(asked.method, asked.body) for asked in server.requests if "ttl" in asked.path] == [
        ("PUT", b'{"ttl_seconds":7200}'),
        ("PUT", b'{"ttl_seconds":null}'),
    ]
    assert [asked.method for asked in server.of(f"{place}/publish")] == ["POST", "DELETE"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [[], ["--ttl", "1h", "--remove"]])
def test_a_ttl_is_a_time_or_its_removal(words: list[str], server: RecordingServer) -> None:
    assert main(["checkpoints", "ttl", checkpoint("a")["tinker_path"], *words]) == 2
    assert server.requests == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("3600", 3600), ("90m", 5400), ("12H", 43_200), ("7d", 604_800)]
)
def test_durations_have_units(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0d", "-1", "1.5h", "week", "1 h 2", "²"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^ttl="):
        parse_duration_s(text)


# delete ---------------------------------------------------------------------------------------


def test_deleting_asks_and_without_a_terminal_it_refuses(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Reply(body={"checkpoints": [checkpoint("a")]})
    server.script(f"training_runs/{RUN}/checkpoints", found)
    assert main(["checkpoints", "delete", checkpoint("a")["tinker_path"]]) == 1
    assert capsys.readouterr().err == (
        "error: 1 checkpoint would be deleted, and there is no terminal to ask on\n"
        "hint: add --yes\n"
    )
    assert not any(asked.method == "DELETE" for asked in server.requests)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_the_question_names_what_goes_and_only_a_yes_deletes(
    server: RecordingServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    server.script(
        f"training_runs/{RUN}/checkpoints", Reply(body={"checkpoints": [checkpoint("a")]})
    )
    place = f"training_runs/{RUN}/checkpoints/weights/a"
    server.script(place, Reply(204, b""))
    assert main(["checkpoints", "delete", checkpoint("a")["tinker_path"]]) == code
    shown, told = capsys.readouterr()
    assert f"  tinker://{RUN}/weights/a (1.5 KiB, 3 hours ago)\n" in told
    assert "Delete 1 checkpoint, 1.5 KiB? This cannot be undone." in told
    assert shown == ("deleted 1 checkpoint\n" if code == 0 else "")
    assert len(server.of(place)) == (1 if code == 0 else 0)


def test_many_are_deleted_and_each_failure_is_told(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"c{number}" for number in range(70)]
    for name in names:
        status, body = (404, {"message": "no such checkpoint"}) if name == "c7" else (204, b"")
        server.script(f"training_runs/{RUN}/checkpoints/weights/{name}", Reply(status, body))
    addresses = [checkpoint(name)["tinker_path"] for name in names]
    assert main(["checkpoints", "delete", "--yes", "--json", *addresses, addresses[0]]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["deleted_count"] == 69
    assert [each["tinker_path"] for each in told["failed"]] == [f"tinker://{RUN}/weights/c7"]


@pytest.mark.parametrize(
    ("words", "deleted"),
    [
        (["--type", "sampler"], ["sampler_weights/c"]),
        (["--type", "weights"], ["weights/b", "weights/a"]),
        (["--before", "2026-02-01"], ["weights/a"]),
        (["--after", "2026-02-01T00:00:00+00:00", "--type", "training"], ["weights/b"]),
    ],
)
def test_filters_must_all_hold(
    server: RecordingServer,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    deleted: list[str],
) -> None:
    kept = [
        checkpoint("c", "sampler_weights", time="2026-03-02T00:00:00Z"),
        checkpoint("b", time="2026-02-01T00:00:00Z"),
        checkpoint("a", time="2026-01-31T23:59:59Z"),
    ]
    server.script("checkpoints?limit=1000&offset=0", page("checkpoints", kept))
    for each in kept:
        server.script(f"training_runs/{RUN}/checkpoints/{each['checkpoint_id']}", Reply(204, b""))
    assert main(["checkpoints", "delete", "--yes", *words]) == 0
    gone = [asked.path for asked in server.requests if asked.method == "DELETE"]
    assert sorted(gone) == sorted(f"training_runs/{RUN}/checkpoints/{each}" for each in deleted)


@pytest.mark.parametrize(
    "words",
    [["--yes"], ["--yes", "--run-id", RUN, f"tinker://{RUN}/weights/a"], ["--type", "all"]],
)
def test_deleting_needs_addresses_or_filters(words: list[str], server: RecordingServer) -> None:
    assert main(["checkpoints", "delete", *words]) == 2
    assert server.requests == []


def test_one_wrong_address_deletes_nothing(server: RecordingServer) -> None:
    words = [f"tinker://{RUN}/weights/a", "tinker://oops"]
    assert main(["checkpoints", "delete", "--yes", *words]) == 1
    assert not any(asked.method == "DELETE" for asked in server.requests)


def test_dates_are_utc_and_what_is_none_is_refused() -> None:
    assert parse_date("before", "2026-11-21") == datetime(2026, 11, 21, tzinfo=UTC)
    assert parse_date("before", None) is None
    with pytest.raises(ConfigError, match=r"^before='yesterday': must be a date"):
        parse_date("before", "yesterday")
    assert checkpoints_delete.Filter().is_empty


# download -------------------------------------------------------------------------------------


def test_a_directory_is_named_after_its_checkpoint_and_lies_where_it_should() -> None:
    assert directory_name("tinker://a-b:train:0/weights/s.1") == "a-b_train_0_weights_s.1"
    assert directory_name("tinker://../weights/..") == "_weights_.."
    with pytest.raises(UserError, match="not a checkpoint's address"):
        directory_name("tinker://a/b")


def test_a_download_that_is_there_already_is_not_asked_for(
    server: RecordingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "S_train_0_weights_a").mkdir()
    words = ["checkpoints", "download", f"tinker://{RUN}/weights/a", "-o", str(tmp_path)]
    assert main(words) == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert paths(server) == []


# sessions -------------------------------------------------------------------------------------


def session(number: int, **fields: Any) -> dict[str, Any]:
    made = {
        "session_id": f"s{number}",
        "created_at": NOW.isoformat(),
        "owner": "me",
        "project_id": "",
        "checkpoints_count": 2,
        "checkpoint_storage_bytes": 2048,
    }
    return made | fields


def test_sessions_are_listed_with_how_they_stand(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = {"type": "client_finished", "reason": {"type": "errored"}}
    found = [session(0, status={"type": "active"}), session(1, status=finished), session(2)]
    server.script("sessions/search", Reply(body={"sessions": found}))
    assert main(["sessions", "list"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("3 sessions\n")
    for word in ("active", "errored", "gone", "2.0 KiB"):
        assert word in shown


def test_sessions_are_read_page_by_page_to_the_limit(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    cursor = {"last_created_at": NOW.isoformat(), "last_session_id": "s199"}
    first = {"sessions": [session(n) for n in range(200)], "next_cursor": cursor}
    second = {"sessions": [session(n) for n in range(200, 250)], "next_cursor": cursor}
    server.script("sessions/search", Reply(body=first), Reply(body=second))
    assert main(["sessions", "list", "--limit", "250", "--accessible"]) == 0
    assert capsys.readouterr().out.startswith("250 sessions (more not shown; --limit 0: all)\n")
    asked = [request.json for request in server.of("sessions/search")]
    assert [each["limit"] for each in asked] == [200, 50]
    assert asked[1]["cursor"]["last_session_id"] == "s199"
    assert asked[0]["owner"] == {"type": "accessible"}
