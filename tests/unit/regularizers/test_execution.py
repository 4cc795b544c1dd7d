"""Jobs run at once within bounds, keep their order, and end each other as they should."""

import asyncio
import contextvars
import threading
import time
from typing import Any

import pytest
import torch

import tests.unit.regularizers.in_module as in_module
from tests.unit.regularizers.support import data_for, leaves
from tinsmith.regularizers import ComposedLoss, CustomLossOptions, Regularizer, RegularizerError
from tinsmith.regularizers.execution import Cancelled, Job, Stop, TimedOut, call_and_wait, run_jobs


def run(calls: list[Any], workers: int, **settings: Any) -> list[Any]:
    jobs = [
        Job(call, settings.get("timeout_s", 30), settings.get("is_fatal", True)) for call in calls
    ]
    return run_jobs(jobs, workers, lambda index: None)


class Crowd:
    """Counts how many are inside at once; lets go when `size` are, so that no clock is needed."""

    def __init__(self, size: int) -> None:
        self.peak = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(size)

    def __call__(self, stop: Stop) -> str:
        with self._lock:
            self._inside += 1
            self.peak = max(self.peak, self._inside)
        self._barrier.wait(20)
        with self._lock:
            self._inside -= 1
        return threading.current_thread().name


def test_five_jobs_are_under_way_at_once() -> None:
    crowd = Crowd(5)
    outcomes = run([crowd] * 5, 8)
    assert crowd.peak == 5  # the barrier would break were one of them to wait for another
    assert [o.error for o in outcomes] == [None] * 5


def test_no_more_than_the_bound_are_under_way() -> None:
    crowd = Crowd(2)
    assert [o.error for o in run([crowd] * 6, 2)] == [None] * 6
    assert crowd.peak == 2
    alone = Crowd(1)
    run([alone] * 4, 1)
    assert alone.peak == 1


def test_outcomes_are_in_the_order_of_the_jobs() -> None:
    gates = [threading.Event() for _ in range(3)]

    def make(index: int) -> Any:
        def call(stop: Stop) -> int:
            if index < 2:
                assert gates[index + 1].wait(20)  # finishes after the next one
            gates[index].set()
            return index

        return call

    assert [o.result for o in run([make(i) for i in range(3)], 3)] == [0, 1, 2]


def test_sequential_jobs_stop_at_the_first_failure() -> None:
    started: list[int] = []

    def fails(stop: Stop) -> None:
        raise ValueError("no")

    jobs = [Job(lambda stop: 1, 30, True), Job(fails, 30, True), Job(lambda stop: 2, 30, True)]
    outcomes = run_jobs(jobs, 1, started.append)
    assert started == [0, 1]
    assert outcomes[0].result == 1
    assert isinstance(outcomes[1].error, ValueError)
    assert isinstance(outcomes[2].error, Cancelled)
    assert not outcomes[2].was_started


def test_a_failure_that_is_not_fatal_ends_nobody() -> None:
    def fails(stop: Stop) -> None:
        raise ValueError("no")

    outcomes = run([fails, lambda stop: 1], 1, is_fatal=False)
    assert [o.result for o in outcomes] == [None, 1]


def test_a_time_out_that_is_not_fatal_frees_its_place() -> None:
    release = threading.Event()

    def hangs(stop: Stop) -> None:
        assert release.wait(20)

    jobs = [Job(hangs, 0.05, False), Job(lambda stop: 1, 30, False)]
    try:
        outcomes = run_jobs(jobs, 1, lambda index: None)
    finally:
        release.set()
    assert isinstance(outcomes[0].error, TimedOut)
    assert outcomes[0].duration_s >= 0.05
    assert outcomes[1].result == 1


def test_a_late_result_of_a_job_that_was_given_up_is_not_taken() -> None:
    gave_up, late = threading.Event(), threading.Event()

    def hangs(stop: Stop) -> str:
        stop.on(gave_up.set)
        assert gave_up.wait(20)
        late.set()
        return "late"

    def waits(stop: Stop) -> str:
        assert late.wait(20)
        time.sleep(0.05)  # the late result is in the queue before this one
        return "in time"

    jobs = [Job(hangs, 0.05, False), Job(waits, 30, False)]
    outcomes = run_jobs(jobs, 2, lambda index: None)
    assert isinstance(outcomes[0].error, TimedOut)
    assert outcomes[1].result == "in time"


def test_a_job_sees_the_context_of_its_caller() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    who.set("me")
    assert run([lambda stop: who.get()], 1)[0].result == "me"


def test_a_coroutine_is_cancelled_even_if_asked_before_it_runs() -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(asyncio.CancelledError):
        call_and_wait(lambda: asyncio.sleep(60), stop)


def test_a_stop_after_the_end_does_nothing() -> None:
    stop = Stop()
    assert call_and_wait(lambda: asyncio.sleep(0, 5), stop) == 5
    stop.set()


# -------------------------------------------------------------------------------- processes

X = (-0.5, -1.0, -1.5)


def in_process(fn: Any, **settings: Any) -> tuple[ComposedLoss, list[torch.Tensor], Any]:
    logprobs = leaves(X, (-2.0,), dtype=torch.float32)
    loss = ComposedLoss(
        None, [Regularizer(fn, 0.5, "term", run_in="process", **settings)], track_grad_norms=True
    )
    return loss, logprobs, loss(data_for(logprobs), logprobs)[0]


def test_a_term_in_another_process_has_the_same_value_and_gradient() -> None:
    loss, logprobs, total = in_process(in_module.squares)
    total.backward()
    term = loss.output.regularizers["term"]
    assert term.value == pytest.approx(7.5)
    assert term.custom["pid"] != in_module.pid()
    assert term.custom["num_datums"] == 2
    assert [x.grad.tolist() for x in logprobs] == [[-0.5, -1.0, -1.5], [-2.0]]  # type: ignore[union-attr]
    again, _, _ = in_process(in_module.coroutine)
    assert again.output.regularizers["term"].custom["pid"] == term.custom["pid"]


def test_a_constant_of_another_process_has_no_gradient() -> None:
    logprobs = leaves(X)
    terms = [
        Regularizer(in_module.constant, 0.5, run_in="process"),
        Regularizer(in_module.squares, 0.5),
    ]
    loss = ComposedLoss(None, terms, track_grad_norms=True)
    loss(data_for(logprobs), logprobs)
    assert loss.output.regularizers["constant"].grad_norm is None
    assert loss.output.regularizers["constant"].value == 3.0


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (in_module.fails, "regularizers['term']: ProcessFailedError: KeyError: 'label'"),
        (in_module.no_pair, "must return two values"),
        (in_module.dies, "its process ended with code 3"),
    ],
)
def test_a_failure_in_another_process_is_told(fn: Any, message: str) -> None:
    with pytest.raises(RegularizerError) as failed:
        in_process(fn)
    assert message in str(failed.value)


def test_a_term_in_another_process_is_ended_at_its_time_out() -> None:
    with pytest.raises(RegularizerError, match=r"'term'\]: took longer than timeout_s=0.3"):
        in_process(in_module.spins, timeout_s=0.3)
    assert in_process(in_module.squares)[0].output.loss_total == pytest.approx(3.75)


def test_options_bound_the_workers() -> None:
    assert CustomLossOptions(execution="sequential", max_workers=4).num_workers == 1
    assert CustomLossOptions(max_workers=4).num_workers == 4
    assert 5 <= CustomLossOptions().num_workers <= 32
