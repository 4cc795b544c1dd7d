"""The runs of this process: begin one, come to one, and find the one that code belongs to.

The current run is a context variable: what runs in a context (a task, a thread begun through
`context.propagate`) belongs to the run of that context, and to no other. Code without a context of
its own belongs to the only open run of the process. Where two have been open at once nobody knows
which that would be, so it belongs to the *ambient* run, as does what happens outside of any run.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Unpack

from tinsmith.core import environment
from tinsmith.core.errors import ConfigError, TinsmithError
from tinsmith.core.ids import new_uuid7
from tinsmith.telemetry.context import current_trace
from tinsmith.telemetry.errors import TelemetryWarning, WriterBusyError
from tinsmith.telemetry.git_state import git_state
from tinsmith.telemetry.model import AMBIENT_PROJECT, Attempt, RunRecord
from tinsmith.telemetry.payload import Tidier, redacted_command
from tinsmith.telemetry.processes import host, this_writer
from tinsmith.telemetry.run import Run
from tinsmith.telemetry.settings import RunSettings, check_settings
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.memory import MemoryStore
from tinsmith.telemetry.stores.opening import OFF, default_address, open_store
from tinsmith.telemetry.writer import Durability, WriterOptions

__all__ = [
    "RunSettings",
    "ambient_run",
    "attach",
    "child_environment",
    "current_run",
    "entered_run",
    "finish",
    "init",
    "open_runs",
]

_current: ContextVar[Run | None] = ContextVar("run", default=None)
_open: dict[str, Run] = {}
_stores: dict[str, Store] = {}
_lock = threading.RLock()
_is_ambiguous = False
_ambient: Run | None = None


def init(
    project: str = "default",
    name: str | None = None,
    *,
    config: Mapping[str, object] | None = None,
    **settings: Unpack[RunSettings],
) -> Run:
    """Begin a run, or a new attempt of one, and make it the current one of this context.

    Records the configuration, seed, command line and the git revision with uncommitted changes. Of
    a run that exists already, what is known stays as it was.

    Args:
        project: What the run belongs to.
        name: What to call it; made of project and time by default.
        config: Its configuration; becomes JSON, with secrets by name removed.
        **settings: See `RunSettings`.

    Raises:
        WriterBusyError: a live process writes this rank of the run.
        UnknownNameError: there is no such kind of store, or no such setting.
        ConfigError: a setting is not what it must be.
        StoreError: the store cannot be written.
    """
    settings = check_settings(settings)
    options = _options(settings)
    store = _store(settings.get("store"))
    record = _record(project, name, config, settings)
    rank = settings.get("rank", environment.record_rank())
    if store is None:
        return _enter(_off_run(record, rank))
    store.put_run(record, replace=False)
    attempt = store.begin_attempt(
        record.run_id,
        this_writer(rank),
        resumed_from_step=settings.get("resumed_from_step"),
        attempt=settings.get("attempt"),
    )
    return _enter(_opened(store, attempt, record.run_id, options))


def attach(
    run_id: str | None = None,
    *,
    rank: int | None = None,
    store: str | Path | Store | None = None,
    durability: Durability = "async",
) -> Run:
    """Come to a run that exists, from any process, and make it the current one of this context.

    Args:
        run_id: The run; by default the one that this process was started in (`TINSMITH_RUN`).
        rank: Which rank to write; by default the first free one. In the process that has the run
            open already, its handle is returned.
        store: Where it is recorded.
        durability: As for `init`.

    Raises:
        ConfigError: no run is named.
        UnknownNameError: there is no such run.
        WriterBusyError: a live process writes this rank.
    """
    run_id = run_id or environment.record_run()
    if run_id is None:
        raise ConfigError(
            "run_id: no run is named",
            field="run_id",
            hint="pass the id of one (tinsmith runs list), or start this process with the "
            "variables of telemetry.child_environment()",
        )
    known = _open.get(run_id)
    if known is not None and not known.is_child and rank in (None, known.rank):
        _current.set(known)
        return known
    opened = _store(store)
    options = WriterOptions(durability=durability)
    if opened is None:
        return _enter(_off_run(_record("default", None, None, {"run_id": run_id}), rank or 0))
    attempt = _begin_free_rank(opened, run_id) if rank is None else opened.begin_attempt(
        run_id, this_writer(rank)
    )  # fmt: skip
    return _enter(_opened(opened, attempt, run_id, options))


def current_run() -> Run:
    """Return the run that the calling code belongs to; the ambient one where there is none."""
    run = _of_context() or _only_open_run()
    return run if run is not None else ambient_run()


def entered_run() -> Run | None:
    """Return the innermost open run that this context itself has entered; never a guess."""
    return _of_context()


def ambient_run() -> Run:
    """Return this process's run for what happens outside of any; begun when it is first needed.

    Where it cannot be begun there is one warning, and nothing of it is recorded.
    """
    global _ambient  # noqa: PLW0603 - one for the process
    with _lock:
        if _ambient is None or not _ambient.is_open:
            _ambient = _begin_ambient()
        return _ambient


def open_runs() -> list[Run]:
    """Return the runs that this process has open, the ambient one left out."""
    return list(_open.values())


def finish() -> None:
    """Finish the current run; the ambient one is left alone."""
    run = _of_context() or _only_open_run()
    if run is not None:
        run.finish()


def child_environment() -> dict[str, str]:
    """Return variables for a process to start, that let it `attach` to this run and trace."""
    run, place = current_run(), current_trace()
    # A store's own URL leaves secrets out; the address that it was opened by may have them.
    address = next((known for known, store in _stores.items() if store is run.store), run.store.url)
    variables = {"TINSMITH_RUN": run.run_id, "TINSMITH_RECORD": address}
    if run.is_off:
        variables = {"TINSMITH_RECORD": "off"}
    if place is not None:
        variables["TRACEPARENT"] = place.traceparent
    return variables


def _of_context() -> Run | None:
    """Return the innermost run of this context that is still open."""
    run = _current.get()
    while run is not None and not run.is_open:
        run = run.outer
    return run


def _only_open_run() -> Run | None:
    with _lock:
        if _is_ambiguous or len(_open) != 1:
            return None
        return next(iter(_open.values()))


def _enter(run: Run) -> Run:
    global _is_ambiguous  # noqa: PLW0603 - a fact about the process
    with _lock:
        run.outer = _of_context()
        _open[run.run_id] = run
        _is_ambiguous = _is_ambiguous or len(_open) > 1
    _current.set(run)
    return run


def _leave(run: Run) -> None:
    global _is_ambiguous  # noqa: PLW0603 - a fact about the process
    with _lock:
        _open.pop(run.run_id, None)
        _is_ambiguous = _is_ambiguous and bool(_open)


def _store(asked: str | Path | Store | None) -> Store | None:
    """Return the store asked for, one for each address in this process; None where it is off."""
    if asked is not None and not isinstance(asked, str | Path):
        return asked
    address = default_address() if asked is None else asked
    url = str(address)
    if url == OFF:
        return None
    if url.startswith("memory:"):
        return open_store(url)
    with _lock:
        if url not in _stores:
            _stores[url] = open_store(address)
        return _stores[url]


def _record(
    project: str, name: str | None, config: Mapping[str, object] | None, settings: RunSettings
) -> RunRecord:
    tidy = Tidier()
    now_ns = time.time_ns()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ns // 10**9))

    def told(text: str | None) -> str | None:
        return None if text is None else tidy.text(text, 10_000)

    seed, forked = settings.get("seed"), settings.get("forked_from_step")
    return RunRecord(
        run_id=settings.get("run_id") or new_uuid7(),
        project=tidy.text(project, 1_000),
        name=tidy.text(name or f"{project}-{stamp}", 1_000),
        created_ns=now_ns,
        forked_from_step=None if forked is None else int(forked),
        tags=tuple(tidy.text(tag, 1_000) for tag in settings.get("tags", ())),
        config=tidy.mapping(config),
        seed=None if seed is None else int(seed),
        git=git_state(),
        command=redacted_command([tidy.text(word, 10_000) for word in sys.argv]),
        metadata=tidy.mapping(settings.get("metadata")),
        group=told(settings.get("group")),
        job=told(settings.get("job")),
        parent_run=told(settings.get("parent_run")),
        hypothesis=told(settings.get("hypothesis")),
        condition=tidy.text(settings.get("condition", "default"), 10_000),
    )


def _options(settings: RunSettings) -> WriterOptions:
    given = settings.get("options")
    durability = settings.get("durability")
    if given is None:
        return WriterOptions(durability=durability or "async")
    if durability is not None and durability != given.durability:
        raise ConfigError(
            f"durability={durability!r}: options say {given.durability!r}", field="durability"
        )
    return given


def _opened(store: Store, attempt: Attempt, run_id: str, options: WriterOptions) -> Run:
    run = Run(store, store.get_run(run_id), attempt, options, _leave)
    run.announce()
    return run


def _begin_free_rank(store: Store, run_id: str) -> Attempt:
    rank = 0
    while True:
        try:
            listed = store.attempts(run_id)
            last = max((one.attempt for one in listed), default=0)
            rank = max(rank, *(one.rank + 1 for one in listed if one.attempt == last), 0)
            return store.begin_attempt(run_id, this_writer(rank))
        except WriterBusyError:  # another process was faster
            rank += 1


def _off_run(record: RunRecord, rank: int) -> Run:
    attempt = Attempt(attempt=1, started_ns=0, heartbeat_ns=0, **this_writer(rank)._asdict())
    return Run(MemoryStore(), record, attempt, WriterOptions(), _leave, is_off=True)


def _begin_ambient() -> Run:
    record = _record(AMBIENT_PROJECT, f"{AMBIENT_PROJECT}-{host()}-{this_writer(0).pid}", None, {})
    try:
        store = _store(None)
        if store is not None:
            store.put_run(record)
            attempt = store.begin_attempt(record.run_id, this_writer(0))
            return Run(store, record, attempt, WriterOptions())
    except TinsmithError as error:
        warnings.warn(
            f"what happens outside of a run is not recorded: {error}",
            TelemetryWarning,
            stacklevel=4,
        )
    return _off_run(record, 0)


def _finish_all() -> None:
    """End what is open when the interpreter ends; after an uncaught error as failed."""
    kind = getattr(sys, "last_type", None)
    is_interactive = hasattr(sys, "ps1")
    failed = kind is not None and not is_interactive
    code = 130 if kind is KeyboardInterrupt else 1
    runs = [*_open.values(), *([_ambient] if _ambient is not None else [])]
    for run in runs:
        if failed:
            run.finish("failed", exit_code=code)
        else:
            run.finish()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
