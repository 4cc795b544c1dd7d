"""The API process's end of an engine process: start it, talk to it, notice its death.

Everything public runs on the event loop. Two daemon threads per engine block on the pipe: one
pickles and writes, one reads and hands over with `call_soon_threadsafe`. No timers, no polling.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from tinsmith.core import environment
from tinsmith.core.errors import EngineDiedError, TinsmithError
from tinsmith.engine.jobs import BaseModelInfo, SampledToken, SampleJob, SampleResult
from tinsmith.server.messages import (
    Call,
    CancelSample,
    Command,
    EngineSettings,
    Ready,
    Reply,
    StartFailed,
    Stop,
    decode,
    encode,
)

logger = logging.getLogger(__name__)

OnReply = Callable[[object], None]
OnSample = Callable[[SampleResult], None]
OnToken = Callable[[SampledToken], None]


class EngineClient:
    """One engine process.

    A call made before the process is ready simply waits in the pipe. When the process ends, every
    open call and sample is answered with `failure`, then `on_exit` runs once.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        on_ready: Callable[[BaseModelInfo], None],
        on_exit: Callable[[TinsmithError], None],
    ) -> None:
        self.settings = settings
        self.info: BaseModelInfo | None = None
        self.failure: TinsmithError | None = None
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._calls: dict[int, OnReply] = {}
        self._samples: dict[str, tuple[OnSample, OnToken | None]] = {}
        self._num_calls = 0
        self._exited = asyncio.Event()
        self._connection, self._process = _start_process()
        self._outbox.put(settings)
        for target in (self._write, self._read):
            threading.Thread(target=target, daemon=True, name=f"engine-{target.__name__}").start()

    @property
    def pid(self) -> int:
        """Process id of the engine."""
        return self._process.pid

    @property
    def num_samples(self) -> int:
        """Samples handed over and not finished."""
        return len(self._samples)

    def call(self, command: Command, on_reply: OnReply) -> None:
        """Sends a command; `on_reply` gets its answer, or the `TinsmithError` it ended in."""
        if self.failure is not None:
            self._loop.call_soon(on_reply, self.failure)
            return
        self._num_calls += 1
        self._calls[self._num_calls] = on_reply
        self._outbox.put(Call(self._num_calls, command))

    def sample(self, job: SampleJob, on_result: OnSample, on_token: OnToken | None = None) -> None:
        """Submits a sample; `on_result` gets its response or error, `on_token` what streams."""
        if self.failure is not None:
            self._loop.call_soon(on_result, SampleResult(job.job_id, error=self.failure))
            return
        self._samples[job.job_id] = (on_result, on_token)
        self._outbox.put(job)

    def cancel_sample(self, job_id: str, error: TinsmithError) -> None:
        """Takes a sample back; its `on_result` gets the error."""
        sample = self._samples.pop(job_id, None)
        if sample is not None:
            self._outbox.put(CancelSample(job_id))
            sample[0](SampleResult(job_id, error=error))

    async def stop(self, grace_s: float) -> None:
        """Lets the calls already sent finish for up to `grace_s` seconds, then ends the process."""
        if self.info is None:
            grace_s = 0  # it is loading: there is nothing to finish
        self._outbox.put(Stop())
        try:
            async with asyncio.timeout(grace_s):
                await self._exited.wait()
        except TimeoutError:
            self._process.kill()
            await self._exited.wait()

    def _write(self) -> None:
        is_open = True
        while (message := self._outbox.get()) is not None:
            if is_open:
                try:
                    self._connection.send_bytes(encode(message))
                except OSError:
                    is_open = False  # the process is gone; the reader tells everyone
        self._connection.close()

    def _read(self) -> None:
        while True:
            try:
                message = decode(self._connection.recv_bytes())
            except (EOFError, OSError):
                break
            self._hand_over(self._receive, message)
        self._outbox.put(None)
        self._hand_over(self._finish, self._process.wait())

    def _hand_over(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: the service is ending
            logger.debug("engine message after the end of the service")

    def _receive(self, message: object) -> None:
        match message:
            case Reply(call_id, result):
                self._calls.pop(call_id)(result)
            case list():
                for answer in message:
                    self._receive_sampled(answer)
            case Ready(info):
                self.info = info
                self._on_ready(info)
            case StartFailed(error):
                self.failure = error
            case _:
                raise TypeError(f"unexpected message {type(message).__name__}")

    def _receive_sampled(self, answer: SampledToken | SampleResult) -> None:
        """Hands on a token or a result, unless the sample was cancelled meanwhile."""
        if isinstance(answer, SampleResult):
            sample = self._samples.pop(answer.job_id, None)
            if sample is not None:
                sample[0](answer)
            return
        sample = self._samples.get(answer.job_id)
        if sample is not None and sample[1] is not None:
            sample[1](answer)

    def _finish(self, return_code: int) -> None:
        failure = self.failure or EngineDiedError(
            f"the engine process of base_model={self.settings.base_model!r} ended "
            f"(exit code {return_code}); its models' unsaved work is lost",
            hint="load the last checkpoint into a new model and go on from there",
        )
        self.failure = failure
        calls, self._calls = self._calls, {}
        samples, self._samples = self._samples, {}
        self._on_exit(failure)
        for on_reply in calls.values():
            on_reply(failure)
        for job_id, (on_result, _) in samples.items():
            on_result(SampleResult(job_id, error=failure))
        self._exited.set()


def _start_process() -> tuple[Connection, subprocess.Popen[bytes]]:
    """Starts the child with one end of a socket pair as its only extra descriptor."""
    ours, theirs = socket.socketpair()
    with theirs:
        # -P: a torch.py in the directory where somebody started us must not be imported.
        command = [sys.executable, "-P", "-m", "tinsmith.server.engine_process", "--fd"]
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment.compute_process(),
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C in the terminal is the API process's to handle
        )
    return Connection(ours.detach()), process
