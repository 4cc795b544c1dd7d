"""The runs of a process: who an event belongs to, resuming, attaching, forking, ending."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.telemetry.records import triples
from tinsmith import telemetry
from tinsmith.core.errors import ConfigError, UnknownNameError
from tinsmith.telemetry import RunStatus, WriterBusyError, WriterOptions, events, session
from tinsmith.telemetry.model import AMBIENT_PROJECT
from tinsmith.telemetry.stores import MemoryStore, SqliteStore

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _fresh_process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Record by default, into this test's folder, with no ambient run of another test."""
    monkeypatch.setenv("TINSMITH_RECORD", str(tmp_path / "default"))
    monkeypatch.setattr(session, "_ambient", None)
    session._current.set(None)


def names(run: telemetry.Run) -> list[str]:
    run.flush()
    listed = run.store.events(run.run_id)
    return [event.name for event in listed if not event.name.startswith("run.")]


def script(code: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        env={**os.environ, **variables},
    )


# ----------------------------------------------------------------------------------- attribution


def test_two_runs_in_one_process_never_see_each_others_events(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    ready = threading.Barrier(2)
    runs: dict[str, telemetry.Run] = {}

    def condition(name: str) -> None:
        with telemetry.init("ab", name, store=store, condition=name) as run:
            runs[name] = run
            ready.wait()
            for step in range(50):
                telemetry.log({name: 1.0}, step=step)
                with telemetry.span(events.TRAIN_STEP, step=step, arm=name):
                    telemetry.event(events.BATCH_BUILT, metadata={"arm": name})
            ready.wait()

    threads = [threading.Thread(target=condition, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, run in runs.items():
        assert {row[0] for row in triples(store.points(run.run_id))} == {name}
        mine = [e for e in store.events(run.run_id) if not e.name.startswith("run.")]
        assert len(mine) == 100
        assert {event.metadata["arm"] for event in mine} == {name}


async def test_tasks_belong_to_the_run_that_they_began_in(tmp_path: Path) -> None:
    async def condition(name: str) -> telemetry.Run:
        with telemetry.init("ab", name, store=tmp_path) as run:

            async def part() -> None:
                await asyncio.sleep(0)
                telemetry.log({name: 1.0}, step=0)

            await asyncio.gather(part(), part())
            await asyncio.to_thread(telemetry.log, {f"{name}-thread": 1.0}, 0)
        return run

    for run, name in zip(await asyncio.gather(condition("a"), condition("b")), "ab", strict=True):
        keys = {key for key, _, _ in triples(run.store.points(run.run_id))}
        assert keys == {name, f"{name}-thread"}


def test_a_thread_without_context_belongs_to_the_only_open_run(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path) as run:
        thread = threading.Thread(target=telemetry.log, args=({"a": 1.0}, 0))
        thread.start()
        thread.join()
    assert triples(run.store.points(run.run_id)) == [("a", 0, 1.0)]


def test_with_two_runs_open_a_thread_without_context_is_ambient_and_with_it_is_not(
    tmp_path: Path,
) -> None:
    first = telemetry.init("p", "first", store=tmp_path)
    second = telemetry.init("p", "second", store=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(telemetry.event, events.BATCH_BUILT).result()
        pool.submit(telemetry.propagate(telemetry.event), events.CPU_SAMPLE).result()
    first.finish()
    with ThreadPoolExecutor(1) as pool:  # still nobody knows whose threads these are
        pool.submit(telemetry.event, events.GPU_SAMPLE).result()
    ambient = telemetry.ambient_run()
    assert names(ambient) == ["batch.built", "gpu.sample"]
    assert names(second) == ["cpu.sample"]
    assert names(first) == []
    second.finish()
    ambient.finish()


def test_what_happens_outside_of_any_run_goes_to_the_ambient_run() -> None:
    telemetry.event(events.CPU_SAMPLE, {"util_percent": 3})
    ambient = telemetry.current_run()
    assert ambient.project == AMBIENT_PROJECT
    assert names(ambient) == ["cpu.sample"]
    with telemetry.init() as run:
        assert telemetry.current_run() is run
        telemetry.event(events.BATCH_BUILT)
    assert telemetry.current_run() is ambient
    assert names(run) == ["batch.built"]
    assert ambient not in telemetry.open_runs()
    telemetry.finish()
    assert ambient.is_open
    ambient.finish()


def test_an_inner_run_gives_the_current_place_back(tmp_path: Path) -> None:
    with telemetry.init("p", "outer", store=tmp_path) as outer:
        with telemetry.init("p", "inner", store=tmp_path) as inner:
            assert telemetry.current_run() is inner
        assert telemetry.current_run() is outer


def test_the_off_switch_records_nothing_and_every_call_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for said in ("off", "0", "false", "no"):
        monkeypatch.setenv("TINSMITH_RECORD", said)
        with telemetry.init("p", config={"a": 1}) as run:
            telemetry.log({"a": 1.0}, step=0)
            telemetry.event(events.BATCH_BUILT)
            telemetry.sample("p", "c")
            telemetry.resume()
            telemetry.alert("r", "m")
            run.pause()
            run.resume()
            run.log({"a": 1.0})
            assert run.is_off
            assert telemetry.child_environment() == {"TINSMITH_RECORD": "off"}
        assert run.health == {}
        assert run.store.list_runs() == []
    assert not (tmp_path / "default").exists()


# -------------------------------------------------------------------------------------- beginning


def test_a_run_knows_what_it_was_told_and_where_it_came_from(tmp_path: Path) -> None:
    with telemetry.init(
        "p",
        "n",
        config={"lr": 0.1, "path": Path("x")},
        store=tmp_path,
        hypothesis="h",
        condition="treatment",
        group="g",
        job="train",
        parent_run="other",
        forked_from_step=3,
        tags=["a", "b"],
        seed=7,
        metadata={"m": 1},
    ) as run:
        record = run.store.get_run(run.run_id)
    assert (record.project, record.name, record.status) == ("p", "n", RunStatus.RUNNING)
    assert (record.hypothesis, record.condition, record.group) == ("h", "treatment", "g")
    assert (record.job, record.parent_run, record.forked_from_step) == ("train", "other", 3)
    assert (record.tags, record.seed, record.config) == (("a", "b"), 7, {"lr": 0.1, "path": "x"})
    assert record.metadata == {"m": 1}
    assert len(record.command) == len(sys.argv)


def test_a_resumed_run_shows_one_line_and_keeps_the_old_one(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path, run_id="r1", config={"lr": 1}) as run:
        for step in range(10):
            run.log({"loss": 1.0}, step=step)
    with telemetry.init(store=tmp_path, run_id="r1", resumed_from_step=5, config={"lr": 2}) as run:
        assert run.attempt == 2
        for _ in range(2):
            run.log({"loss": 2.0})  # goes on behind the step that it resumed from
    assert [(step, value) for _, step, value in triples(run.store.points("r1"))] == [
        *((step, 1.0) for step in range(6)),
        (6, 2.0),
        (7, 2.0),
    ]
    assert len(run.store.points("r1", attempt=1)) == 10
    assert run.store.get_run("r1").config == {"lr": 1}
    (event,) = run.store.events("r1", events.RUN_REATTACHED.name)
    assert event.measurements["resumed_from_step"] == 5


def test_a_second_process_on_a_rank_is_refused_by_name_and_a_killed_one_is_succeeded(
    tmp_path: Path,
) -> None:
    code = """
import os, signal, sys
from tinsmith import telemetry
run = telemetry.init(store=sys.argv[1], run_id="r1")
run.log({"loss": 1.0}, step=0)
assert run.flush()
print(os.getpid(), flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert child.stdout is not None
    pid = child.stdout.readline().strip()
    with pytest.raises(WriterBusyError, match=rf"rank=0: process {pid} on .* writes it"):
        telemetry.init(store=tmp_path, run_id="r1")
    child.communicate("\n", timeout=60)
    with telemetry.init(store=tmp_path, run_id="r1", resumed_from_step=0) as run:
        assert run.attempt == 2
        run.log({"loss": 2.0}, step=1)
    assert triples(run.store.points("r1")) == [("loss", 0, 1.0), ("loss", 1, 2.0)]
    first, second = run.store.attempts("r1")
    assert (first.ended_ns, second.status) == (None, RunStatus.FINISHED)


def test_an_unknown_store_is_an_error_with_the_nearest_name() -> None:
    for asked in ("sqlight:///x", "sqlight"):
        with pytest.raises(UnknownNameError, match="did you mean 'sqlite'"):
            telemetry.init(store=asked)


def test_the_rank_of_a_launch_is_taken_from_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    with telemetry.init(store=tmp_path) as run:
        assert run.rank == 3


# -------------------------------------------------------------------------------------- attaching


def test_attaching_in_the_process_that_has_the_run_gives_its_handle(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path) as run:
        assert telemetry.attach(run.run_id) is run


def test_attaching_without_a_run_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match="no run is named; pass the id of one"):
        telemetry.attach()


def test_an_unknown_run_cannot_be_attached_to(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="run_id='none': unknown"):
        telemetry.attach("none", store=tmp_path)


def test_a_started_process_belongs_to_run_and_trace_and_writes_a_rank_of_its_own(
    tmp_path: Path,
) -> None:
    code = """
from tinsmith import telemetry
with telemetry.attach() as run:
    telemetry.event(telemetry.events.EVAL_FINISHED, {"n": 3}, metadata={"rank": run.rank})
    telemetry.log({"eval/score": 0.5}, step=4)
"""
    with telemetry.init(store=tmp_path) as run:
        with run.span(events.TRAIN_STEP) as span:
            variables = telemetry.child_environment()
            for _ in range(2):
                done = script(code, **variables)
                assert done.returncode == 0, done.stderr
        run.flush()
        found = run.store.events(run.run_id, events.EVAL_FINISHED.name)
        assert {(e.trace_id, e.span_id) for e in found} == {
            (span.place.trace_id, span.place.span_id)
        }
        assert [event.metadata["rank"] for event in found] == [1, 2]
        assert run.store.get_run(run.run_id).status is RunStatus.RUNNING
    assert len(run.store.points(run.run_id, ["eval/score"])) == 2


# ----------------------------------------------------------------------------------------- ending


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        ("", RunStatus.FINISHED, 0),
        ("raise ValueError('x')", RunStatus.FAILED, 1),
        ("raise KeyboardInterrupt", RunStatus.FAILED, 130),
    ],
)
def test_a_run_left_open_is_ended_with_the_interpreter(
    tmp_path: Path, ending: str, status: RunStatus, code: int
) -> None:
    begin = """
import sys
from tinsmith import telemetry
run = telemetry.init(store=sys.argv[1], run_id="r1")
run.log({"a": 1.0}, step=0)
"""
    script(begin + ending, str(tmp_path))
    store = SqliteStore(tmp_path)
    assert store.get_run("r1").status is status
    assert len(store.points("r1")) == 1
    assert store.attempts("r1")[0].exit_code == (code or None)


def forked(work: Any) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_records_into_the_run_and_does_not_end_it(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path) as run:
        run.log({"parent": 1.0}, step=0)  # may still wait in the queue: the child must not write it

        def work() -> None:
            telemetry.log({"child": 1.0}, step=0)
            telemetry.event(events.BATCH_BUILT)
            assert run.is_child
            assert run.flush(20)
            run.finish()
            assert not run.is_open

        assert forked(work) == 0
        assert run.is_open
        run.log({"parent": 2.0}, step=1)
    assert triples(run.store.points(run.run_id)) == [
        ("child", 0, 1.0),
        ("parent", 0, 1.0),
        ("parent", 1, 2.0),
    ]
    assert names(run) == ["batch.built"]
    assert run.store.get_run(run.run_id).status is RunStatus.FINISHED


LOADER = """
import multiprocessing, sys
from tinsmith import telemetry

def work(step):
    telemetry.log({"loaded": 1.0}, step=step)
    return step

if __name__ == "__main__":
    epochs, folder = int(sys.argv[1]), sys.argv[2]
    fork = multiprocessing.get_context("fork")
    with telemetry.init(store=folder, run_id="r1") as run:
        step = 0
        for epoch in range(epochs):
            workers = [fork.Process(target=work, args=(4 * epoch + i,)) for i in range(4)]
            for worker in workers:
                worker.start()
            for _ in range(20):
                run.log({"loss": 1.0}, step=step)
                step += 1
            for worker in workers:
                worker.join(60)
                assert worker.exitcode == 0, worker.exitcode
    assert run.health == {}, run.health
"""


def check_forked_loader(folder: Path, epochs: int, timeout_s: float) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            LOADER,
            str(epochs),
            str(folder),
        ],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    store = SqliteStore(folder)
    assert len(store.points("r1", ["loss"])) == 20 * epochs
    assert store.points("r1", ["loaded"]).step.tolist() == list(range(4 * epochs))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_loader_with_four_forked_workers_neither_hangs_nor_loses_rows(tmp_path: Path) -> None:
    check_forked_loader(tmp_path, epochs=4, timeout_s=60)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TINSMITH_SLOW"), reason="slow: set TINSMITH_SLOW=1")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_hundred_epochs_with_four_forked_workers_do_not_hang(tmp_path: Path) -> None:
    check_forked_loader(tmp_path, epochs=100, timeout_s=300)


class StuckStore(MemoryStore):
    """A store whose server has gone silent: calls never come back."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stuck = threading.Event()
        self.let_go = threading.Event()

    def append(self, run_id: str, batch: Any) -> Any:
        if self.is_stuck.is_set():
            self.let_go.wait(60)
        return super().append(run_id, batch)


def test_finish_returns_in_time_with_a_store_that_never_answers() -> None:
    store = StuckStore()
    assert WriterOptions().finish_s == 5.0
    run = telemetry.init(store=store, options=WriterOptions(finish_s=1.0))
    store.is_stuck.set()
    run.log({"a": 1.0}, step=0)
    started = time.monotonic()
    with pytest.warns(telemetry.TelemetryWarning, match="not everything .* waited"):
        run.finish()
    assert time.monotonic() - started < 5  # 1 s, and room for a busy machine
    assert not run.is_open
    store.let_go.set()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hypotesis": "typo"}, "did you mean 'hypothesis'"),
        ({"durability": "sync"}, "did you mean 'async'"),
        ({"rank": -1}, "rank=-1: must be a whole number from 0 on"),
        ({"rank": "0"}, "rank='0': must be a whole number"),
        ({"attempt": 0}, "attempt=0: must be a whole number from 1 on"),
        ({"resumed_from_step": 1.5}, "resumed_from_step=1.5: must be a whole number of 64 bits"),
        ({"tags": "demo"}, "tags='demo': must be a list of texts"),
        ({"store": ""}, "names no place"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_and_leaves_no_run(
    setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    store = MemoryStore()
    with pytest.raises((ConfigError, UnknownNameError)) as refused:
        telemetry.init("sums", **{"store": store, **setting})
    assert message in f"{refused.value}"
    assert store.list_runs() == []


def test_a_run_that_is_ended_by_an_unknown_status_ends_as_failed(tmp_path: Path) -> None:
    run = telemetry.init("sums", store=MemoryStore())
    told = pytest.warns(telemetry.TelemetryWarning, match="must be 'finished' or 'failed'")
    with telemetry.strictly(False), told:
        run.finish(cast("Any", "done"))
    assert run.store.get_run(run.run_id).status is RunStatus.FAILED
