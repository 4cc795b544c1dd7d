"""Terms in processes of their own, for functions in pure Python that hold the interpreter's lock.

A worker is a fresh interpreter that does not run the caller's script again. It gets the function,
the datums and the logprobs, and answers with value, gradients and metrics; autograd graphs do not
cross processes. Workers are kept for the next call. Main names: `call_in_process`, `serve`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

from tinsmith.core.errors import TinsmithError
from tinsmith.regularizers.execution import Stop, call_and_wait
from tinsmith.regularizers.gradients import gradients_of, with_gradients
from tinsmith.regularizers.results import checked_result
from tinsmith.types import Datum

if TYPE_CHECKING:
    import torch

__all__ = ["ProcessFailedError", "call_in_process", "serve", "start_workers"]

_COMMAND = """
import sys
sys.path[:] = {path!r}
from tinsmith.regularizers.processes import serve
serve({fd})
"""
_MAX_IDLE = 8


class ProcessFailedError(RuntimeError):
    """A worker raised or ended; the text is the error as the worker saw it."""


class _Worker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        fd = theirs.fileno()
        # -c: the caller's __main__ is not imported, so a script needs no guard against itself.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND.format(path=sys.path, fd=fd)],
            pass_fds=[fd],
        )
        theirs.close()

    def wait_until_ready(self) -> None:
        self._pipe.recv()

    def ask(self, request: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            self._pipe.send(request)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise ProcessFailedError(f"its process ended with code {code}") from error

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._pipe.close()  # the worker ends at the end of its input
        self._process.wait()


_idle: list[_Worker] = []
_idle_lock = threading.Lock()


def start_workers(count: int) -> None:
    """Have so many workers ready, 8 at most: a term's time-out does not pay for their imports."""
    with _idle_lock:
        new = [_Worker() for _ in range(min(count, _MAX_IDLE) - len(_idle))]
        for worker in new:
            worker.wait_until_ready()
        _idle.extend(new)


def _take_worker() -> _Worker:
    with _idle_lock:
        if _idle:
            return _idle.pop()
    worker = _Worker()
    worker.wait_until_ready()
    return worker


def _give_back(worker: _Worker) -> None:
    with _idle_lock:
        if len(_idle) < _MAX_IDLE:
            _idle.append(worker)
            return
    worker.close()


def call_in_process(
    fn: Any, data: list[Datum], logprobs: list[torch.Tensor], stop: Stop
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss and metrics of `fn`, computed by a worker; the loss has the gradients it found.

    Raises:
        ProcessFailedError: the function raised, or the process ended.
    """
    import torch

    worker = _take_worker()
    stop.on(worker.kill)
    answer = worker.ask((fn, data, [tensor.detach().numpy() for tensor in logprobs]))
    stop.on(None)
    _give_back(worker)
    if answer[0] == "error":
        raise ProcessFailedError(answer[1])
    _, value, gradients, metrics = answer
    loss = torch.tensor(value, dtype=logprobs[0].dtype)
    if gradients is None:
        return loss, metrics
    return with_gradients(loss, [torch.from_numpy(g) for g in gradients], logprobs), metrics


def serve(fd: int) -> None:
    """The worker's life: answer requests until the pipe is closed."""
    import torch

    torch.set_num_threads(1)  # the others compute beside it
    pipe = Connection(fd)
    pipe.send("ready")
    while True:
        try:
            fn, data, arrays = pipe.recv()
        except EOFError:
            return
        except Exception:  # noqa: BLE001 - what cannot be unpickled is told to who sent it
            pipe.send(("error", traceback.format_exc(limit=-1).strip()))
            continue
        pipe.send(_answer(fn, data, arrays))


def _answer(fn: Any, data: list[Datum], arrays: list[Any]) -> tuple[Any, ...]:
    import torch

    leaves = [torch.from_numpy(array).requires_grad_(True) for array in arrays]
    try:
        returned = call_and_wait(lambda: fn(data, list(leaves)), Stop())
        loss, metrics = checked_result(returned)
        gradients = gradients_of(loss, leaves)
    except TinsmithError as error:
        return "error", str(error)
    except Exception as error:  # noqa: BLE001 - told to the process that asked
        return "error", f"{type(error).__name__}: {error}"
    numbers = None if gradients is None else [gradient.numpy() for gradient in gradients]
    return "ok", float(loss.detach()), numbers, metrics
