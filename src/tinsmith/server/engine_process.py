"""The engine's process: one base model, fed through a pipe, blocked when there is nothing to do.

A reader thread moves messages from the pipe to the inbox, so the API's writes never wait for a
computation. The main thread runs `EngineLoop`: calls in arrival order, sampler steps in between;
when both have work they share the time evenly. The process ends when told to, or at once when the
pipe closes, which is how it learns that the API process is gone.

Started by `EngineClient` as `python -m tinsmith.server.engine_process --fd N`.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from tinsmith.core.errors import AlreadyExistsError, TinsmithError, UserError
from tinsmith.core.jsonio import dumps
from tinsmith.core.paths import atomic_directory
from tinsmith.engine.jobs import SampledToken, SampleJob, SampleResult
from tinsmith.server.checkpoints import RECORD_FILE
from tinsmith.server.encryption import encrypt_files
from tinsmith.server.errors import as_error
from tinsmith.server.messages import (
    AddAdapterTerms,
    Call,
    CancelSample,
    Command,
    CreateAdapter,
    EngineSettings,
    LoadSnapshot,
    LoadState,
    Ready,
    ReleaseSnapshot,
    Reply,
    RunForwardBackward,
    RunOptimStep,
    SaveExternal,
    SaveSamplerWeights,
    SaveState,
    StartFailed,
    Stop,
    TakeSnapshot,
    UnloadAdapter,
    decode,
    encode,
)
from tinsmith.server.sample_runner import SampleRunner
from tinsmith.types import AdapterTerm, AdapterTermsResponse, ForwardBackwardOutput
from tinsmith.types.codec import encode_forward_backward_output

if TYPE_CHECKING:
    from tinsmith.engine.engine import Engine

logger = logging.getLogger(__name__)

Send = Callable[[object], None]


class EngineLoop:
    """Runs an engine on the messages of an inbox."""

    def __init__(self, engine: Engine, inbox: queue.SimpleQueue[object], send: Send) -> None:
        self._engine = engine
        self._inbox = inbox
        self._send = send
        self._calls: deque[Call] = deque()
        self._samples = SampleRunner(engine)
        self._stopping = False
        self._call_s = 0.0
        self._sample_s = 0.0

    def run(self) -> None:
        """Works until `Stop` arrives and the calls before it are done."""
        while True:
            self._take_messages()
            if self._calls and self._is_turn_of_calls():
                started = time.perf_counter()
                call = self._calls.popleft()
                self._send(Reply(call.call_id, self._answer(call.command)))
                self._call_s += time.perf_counter() - started
            elif self._stopping:
                return
            elif self._samples.has_work:
                started = time.perf_counter()
                self._tell(self._samples.step())
                self._sample_s += time.perf_counter() - started

    def _is_turn_of_calls(self) -> bool:
        if self._stopping or not self._samples.has_work:
            self._call_s = self._sample_s = 0.0
            return True
        return self._call_s <= self._sample_s

    def _take_messages(self) -> None:
        """Moves the inbox into the queues; waits only when there is nothing else to do."""
        is_idle = not (self._calls or self._stopping or self._samples.has_work)
        if is_idle:
            self._call_s = self._sample_s = 0.0
            self._accept(self._wait())
        while not self._inbox.empty():
            self._accept(self._inbox.get())

    def _wait(self) -> object:
        """The next message; graphs whose time is up meanwhile are let go."""
        graphs = self._engine.retained
        while True:
            try:
                return self._inbox.get(timeout=graphs.next_expiry_s())
            except queue.Empty:
                graphs.expire()

    def _accept(self, message: object) -> None:
        match message:
            case Call():
                self._calls.append(message)
            case SampleJob():
                self._tell(self._samples.submit(message))
            case CancelSample(job_id):
                self._samples.cancel(job_id)
            case Stop():
                self._stopping = True
            case _:
                raise TypeError(f"unexpected message {type(message).__name__}")

    def _tell(self, answers: Sequence[SampledToken | SampleResult]) -> None:
        if answers:
            self._send(list(answers))

    def _answer(self, command: Command) -> object:
        try:
            return execute(self._engine, command)
        except Exception as exc:  # noqa: BLE001 - request boundary: the call's futures report it
            return as_error(exc, type(command).__name__)


def execute(engine: Engine, command: Command) -> object:
    """Runs one command on the engine and returns its answer."""
    match command:
        case RunForwardBackward(jobs):
            return [_encoded(output) for output in engine.forward_backward(list(jobs))]
        case RunOptimStep(jobs):
            return engine.optim_step(list(jobs))
        case AddAdapterTerms(adapter_id, terms):
            return _add_adapter_terms(engine, adapter_id, terms)
        case CreateAdapter(adapter_id, lora_config, optimizer_config):
            return engine.create_adapter(adapter_id, lora_config, optimizer_config)
        case UnloadAdapter(adapter_id):
            return engine.unload_adapter(adapter_id) if engine.has_adapter(adapter_id) else None
        case SaveState():
            return _save_state(engine, command)
        case SaveSamplerWeights():
            return _save_sampler_weights(engine, command)
        case SaveExternal():
            return _save_external(engine, command)
        case LoadState():
            return _load_state(engine, command)
        case TakeSnapshot(adapter_id):
            return engine.snapshot(adapter_id)
        case LoadSnapshot(directory):
            _require_checkpoint(directory)
            return engine.load_snapshot(directory)
        case ReleaseSnapshot(snapshot_id, num_holds):
            return engine.release_snapshot(snapshot_id, num_holds)


def _add_adapter_terms(
    engine: Engine, adapter_id: str, terms: Sequence[AdapterTerm]
) -> AdapterTermsResponse:
    from tinsmith.engine.adapter_terms import add_adapter_terms

    return add_adapter_terms(engine.adapter(adapter_id), terms)


def _encoded(output: ForwardBackwardOutput | TinsmithError) -> bytes | TinsmithError:
    return output if isinstance(output, TinsmithError) else encode_forward_backward_output(output)


def _load_state(engine: Engine, command: LoadState) -> None:
    _require_checkpoint(command.directory)
    if not command.create and not engine.has_adapter(command.adapter_id):
        raise UserError(
            f"model_id={command.adapter_id!r}: not loaded",
            field="model_id",
            hint="load the checkpoint into a new model",
        )
    engine.load_state(
        command.adapter_id,
        command.directory,
        with_optimizer=command.with_optimizer,
        optimizer_config=command.optimizer_config,
    )


def _save_state(engine: Engine, command: SaveState) -> None:
    with _new_checkpoint(command.directory, overwrite=command.overwrite) as staging:
        engine.save_state(command.adapter_id, staging)
        (staging / RECORD_FILE).write_text(dumps(dict(command.record)), encoding="utf-8")


def _save_sampler_weights(engine: Engine, command: SaveSamplerWeights) -> str:
    with _new_checkpoint(command.directory, overwrite=False) as staging:
        snapshot_id = engine.save_sampler_weights(command.adapter_id, staging)
        record = {**command.record, "snapshot_id": snapshot_id}
        (staging / RECORD_FILE).write_text(dumps(record), encoding="utf-8")
    return snapshot_id


def _save_external(engine: Engine, command: SaveExternal) -> None:
    with _new_checkpoint(command.directory, overwrite=False) as staging:
        engine.export_adapter(command.adapter_id, staging)
        if command.recipients is not None:
            encrypt_files(staging, command.recipients)
        (staging / RECORD_FILE).write_text(dumps(dict(command.record)), encoding="utf-8")


@contextmanager
def _new_checkpoint(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """A directory that becomes the checkpoint when the block succeeds, weights and record at once.

    Raises:
        UserError: the name is taken.
    """
    try:
        with atomic_directory(directory, overwrite=overwrite) as staging:
            yield staging
    except AlreadyExistsError as exc:
        raise UserError(
            f"path={directory.name!r}: a checkpoint of this name exists",
            field="path",
            hint="choose another name, or save with overwrite",
        ) from exc


def _require_checkpoint(directory: Path) -> None:
    if not (directory / RECORD_FILE).is_file():
        raise UserError(
            f"path={directory.name!r}: no such checkpoint",
            field="path",
            hint="use the path that the save returned",
        )


def _read_pipe(connection: Connection, inbox: queue.SimpleQueue[object]) -> None:
    """Feeds the inbox; a closed pipe means that nobody waits for answers, so the process ends."""
    while True:
        try:
            message = decode(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)
        except Exception:
            logger.critical("unreadable message from the API process", exc_info=True)
            os._exit(1)
        inbox.put(message)


def main(argv: list[str] | None = None) -> int:
    """Serves one engine on an inherited socket; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tinsmith.server.engine_process")
    parser.add_argument("--fd", type=int, required=True)
    connection = Connection(parser.parse_args(argv).fd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = decode(connection.recv_bytes())
    assert isinstance(settings, EngineSettings)
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    threading.Thread(target=_read_pipe, args=(connection, inbox), daemon=True).start()

    def send(message: object) -> None:
        connection.send_bytes(encode(message))

    try:
        from transformers.utils import logging as transformers_logging

        from tinsmith.engine.engine import Engine

        transformers_logging.disable_progress_bar()  # this process writes to a log
        engine = Engine(settings.base_model, device=settings.device)
        engine.retained.bound(max_bytes=settings.max_graph_bytes, ttl_s=settings.graph_ttl_s)
    except Exception as exc:  # noqa: BLE001 - process boundary: the API process reports it
        send(StartFailed(as_error(exc, f"loading base_model={settings.base_model!r}")))
        return 1
    send(Ready(engine.info))
    EngineLoop(engine, inbox, send).run()
    return 0


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(exit_code)  # everything is on disk: taking torch apart would only cost time
