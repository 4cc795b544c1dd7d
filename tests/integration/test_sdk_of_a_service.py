"""The SDK's own parts against a real service: keys, reports, addresses, what is stored."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.service_process import ServiceProcess
from tinsmith.cli import main
from tinsmith.client import AdminClient, AuthenticationError, RestClient, ServiceClient
from tinsmith.client.credentials import stored_key
from tinsmith.client.spool import spool_dir
from tinsmith.types import AdamParams

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(
        tmp_path_factory.mktemp("service"), "--api-key", "operators-own"
    ) as process:
        yield process


@pytest.fixture
def url(running: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TINSMITH_BASE_URL", running.ready["url"])
    return running.ready["url"]


def test_a_key_is_made_kept_used_and_revoked(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AuthenticationError), RestClient(base_url=url) as stranger:
        stranger.list_sessions().result(30)
    monkeypatch.setenv("TINSMITH_API_KEY", "operators-own")
    assert main(["keys", "create", "Ada", "--note", "laptop", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    monkeypatch.delenv("TINSMITH_API_KEY")
    monkeypatch.setattr("sys.stdin", io.StringIO(made["key"] + "\n"))
    assert main(["auth", "login", "--key-stdin"]) == 0
    kept = stored_key(url)
    assert kept is not None
    assert kept.key == made["key"]
    capsys.readouterr()
    assert main(["auth", "whoami", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["user_urn"] == f"apikey:{made['key_id']}"
    assert main(["auth", "status"]) == 0
    assert main(["keys", "list"]) == 1, "only the operator may"
    with AdminClient(base_url=url, api_key="operators-own") as admin:
        (record,) = [k for k in admin.list_keys().result(30).keys if k.key_id == made["key_id"]]
        assert (record.name, record.note, record.revoked_at) == ("Ada", "laptop", None)
        admin.revoke_key(record.key_id).result(30)
    capsys.readouterr()
    assert main(["auth", "status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["accessible"] is False


def test_a_session_with_reports_leaves_none_unsent(
    url: str, running: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_TELEMETRY", "1")
    with ServiceClient(base_url=url, api_key="operators-own") as service:
        training = service.create_lora_training_client("tinsmith/tiny", rank=4).result(120)
        telemetry = training.get_telemetry()
        assert telemetry is not None
        telemetry.log("marked", {"key": "operators-own"})
        training.optim_step(AdamParams()).result(60)
        for address in (service.get_console_url(), training.get_console_url()):
            answer = httpx.get(address, headers={"X-API-Key": "operators-own"}, trust_env=False)
            assert answer.status_code == 200
    assert list(spool_dir().glob("*")) == []
    assert "operators-own" not in running.log_file.read_text()


def test_what_is_stored_and_used_answers_in_shape(url: str) -> None:
    with ServiceClient(base_url=url, api_key="operators-own") as service:
        training = service.create_lora_training_client("tinsmith/tiny", rank=4).result(120)
        training.save_state("kept").result(60)
    with AdminClient(base_url=url, api_key="operators-own") as admin:
        (stored,) = admin.get_current_checkpoint_storage_usage().result(30).data
        assert stored.checkpoint_count >= 1
        assert stored.size_bytes > 0
        assert stored.estimated_monthly_cost_usd is None
        span = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
        assert admin.get_billing_usage(*span).result(30).data == []
        assert admin.get_audit_log().result(30).entries == []
