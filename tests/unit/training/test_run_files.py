"""The files of a run: records that survive a crash, choices about an old run, provenance."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.conftest import MakeConfig
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.core.paths import runs_dir, state_dir
from tinsmith.training import SupervisedConfig
from tinsmith.training.adapter_location import local_adapter_dir
from tinsmith.training.checkpoints import (
    CheckpointRecord,
    append_record,
    checkpoint_name,
    last_resumable,
    read_records,
)
from tinsmith.training.config import IfExists
from tinsmith.training.progress import make_progress
from tinsmith.training.provenance import make_manifest
from tinsmith.training.run_dir import RunDir, RunStart, choose_start, new_run_dir


def record(step: int, **extra: object) -> CheckpointRecord:
    return CheckpointRecord.model_validate(
        {"name": checkpoint_name(step), "step": step, "epoch": 0, "batch": step} | extra
    )


def test_records_come_back_with_keys_that_others_added(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    records = [record(1, state_path="tinker://r/weights/000001"), record(2, elapsed_tokens=7)]
    for item in records:
        append_record(path, item)
    assert read_records(path) == records
    assert "sampler_path" not in path.read_text()
    assert json.loads(path.read_text().splitlines()[1])["elapsed_tokens"] == 7


@given(cut=st.integers(0, 200))
def test_a_crash_while_writing_costs_the_line_that_was_being_written(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("records") / "checkpoints.jsonl"
    for step in (1, 2, 3):
        append_record(path, record(step))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    num_whole = whole[:cut].count(b"\n")
    assert [r.step for r in read_records(path)] == [1, 2, 3][:num_whole]
    append_record(path, record(9))
    assert [r.step for r in read_records(path)] == [*[1, 2, 3][:num_whole], 9]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    append_record(path, record(1))
    path.write_text(path.read_text() + '{"name": "x"}\n')
    with pytest.raises(DataError, match=r"checkpoints\.jsonl:2: not a checkpoint record"):
        read_records(path)


def test_only_a_training_state_can_be_resumed() -> None:
    with_state = record(1, state_path="tinker://r/weights/000001")
    sampler_only = record(2, sampler_path="tinker://r/sampler_weights/000002")
    assert last_resumable([with_state, sampler_only]) == with_state
    assert last_resumable([sampler_only]) is None


@pytest.mark.parametrize(("answer", "expected"), [("r\n", True), ("d\n", False)])
def test_a_person_at_the_terminal_is_asked(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    expected: bool,
) -> None:
    run = begun(make_config, tmp_path)
    at_terminal(monkeypatch, answer)
    assert start(run, make_config(), "ask").is_resumed is expected


def start(run: RunDir, config: SupervisedConfig, if_exists: IfExists) -> RunStart:
    return choose_start(run, config, if_exists, data_sha256="d")


MANIFEST = {"diff": "", "data": {"sha256": "d"}}


def begun(make_config: MakeConfig, tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    with start(run, make_config(), "raise").begin(make_config(), MANIFEST):
        return run


def at_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())


def test_any_other_answer_stops(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(make_config, tmp_path)
    at_terminal(monkeypatch, "\n")
    with pytest.raises(ConfigError, match="holds a run"):
        start(run, make_config(), "ask")


def test_without_a_terminal_nobody_is_asked(make_config: MakeConfig, tmp_path: Path) -> None:
    run = begun(make_config, tmp_path)
    with pytest.raises(ConfigError, match="holds a run"):
        start(run, make_config(), "ask")


def test_deciding_writes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    run = begun(make_config, tmp_path)
    run.metrics.write_text('{"step": 1}\n')
    start(run, make_config(), "delete")
    start(run, make_config(), "resume")
    assert run.metrics.read_text() == '{"step": 1}\n'


def test_a_directory_without_config_cannot_be_resumed(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.metrics.write_text("")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        start(run, make_config(), "resume")


def test_settings_that_no_metric_depends_on_may_change_on_resume(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run = begun(make_config, tmp_path)
    config = make_config(save_every=7, base_url="http://elsewhere", progress=False)
    assert start(run, config, "resume").is_resumed


def test_a_run_goes_on_only_with_the_data_it_began_with(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run = begun(make_config, tmp_path)
    with pytest.raises(ConfigError, match="the data has changed since this run began"):
        choose_start(run, make_config(), "resume", data_sha256="other")
    elsewhere = make_config(data=tmp_path / "a" / "copy.jsonl")
    assert start(run, elsewhere, "resume").is_resumed


def test_a_place_that_cannot_hold_a_run_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = RunDir(tmp_path / "file" / "run")
    with (
        pytest.raises(ConfigError, match=r"run_dir=.*cannot be written to: Not a directory"),
        RunStart(run, None, is_resumed=False).begin(make_config(), MANIFEST),
    ):
        pass


def test_two_trainers_cannot_write_one_run(make_config: MakeConfig, tmp_path: Path) -> None:
    run = begun(make_config, tmp_path)
    run.metrics.write_text('{"step": 5}\n')
    with start(run, make_config(), "resume").begin(make_config(), MANIFEST):
        run.metrics.write_text('{"step": 6}\n')
        second = start(run, make_config(), "resume")
        with (
            pytest.raises(ConfigError, match="another process is training in it"),
            second.begin(make_config(), MANIFEST),
        ):
            pass
        assert run.metrics.read_text() == '{"step": 6}\n'
    with start(run, make_config(), "resume").begin(make_config(), MANIFEST):
        assert run.metrics.read_text() == ""


def test_new_run_directories_say_what_and_never_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_run_dir("sft", Path("my data (1).jsonl"))
    first.mkdir(parents=True)
    monkeypatch.setattr("time.strftime", lambda _: first.name.removeprefix("sft-my-data-1-"))
    second = new_run_dir("sft", Path("my data (1).jsonl"))
    assert first.parent == runs_dir()
    assert first.name.startswith("sft-my-data-1-")
    assert second.name == f"{first.name}-2"


def test_the_manifest_names_revision_and_uncommitted_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    (tmp_path / "code.py").write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    clean = make_manifest()
    assert clean["git"] is not None
    assert len(clean["git"]["revision"]) == 40
    assert (clean["git"]["has_uncommitted_changes"], clean["diff"]) == (False, "")
    (tmp_path / "code.py").write_text("x = 2\n")
    dirty = make_manifest()
    assert dirty["git"]["has_uncommitted_changes"]
    assert "+x = 2" in dirty["diff"]


def test_outside_a_repository_there_is_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_manifest()["git"] is None


def test_an_adapter_is_found_here_only_if_its_own_record_says_so() -> None:
    address = "tinker://a:train:0/sampler_weights/final"
    directory = state_dir() / "checkpoints" / "a%3Atrain%3A0" / "sampler_weights" / "final"
    assert local_adapter_dir(address) is None
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "checkpoint.json").write_text('{"path": "tinker://other/sampler_weights/final"}')
    assert local_adapter_dir(address) is None
    (directory / "checkpoint.json").write_text(json.dumps({"path": address}))
    assert local_adapter_dir(address) == directory
    assert local_adapter_dir(str(directory)) is None


def test_the_progress_bar_shows_step_loss_rate_and_time_left_on_a_terminal() -> None:
    """In a process whose stderr is a real pseudo-terminal."""
    pty = pytest.importorskip("pty")
    code = (
        "from tinsmith.training.progress import make_progress\n"
        "with make_progress(10) as bar:\n"
        "    for step in range(1, 6): bar.update(step, 1.25, 4321.0)\n"
    )
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=child, stdout=subprocess.PIPE, env=env
    )
    out, _ = process.communicate(timeout=60)
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert process.returncode == 0
    assert out == b""
    assert all(text in shown for text in ("5/10", "loss 1.2500", "4,321 tokens/s", "left"))


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress(10) as progress:
        progress.update(1, 1.0, 1.0)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
