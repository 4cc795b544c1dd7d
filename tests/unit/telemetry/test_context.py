"""Traces: W3C ids through threads, tasks, processes and headers; spans and their parents."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.telemetry import Run, TraceContext, events
from tinsmith.telemetry.context import current_trace, extract, in_trace, inject, propagate
from tinsmith.telemetry.model import Event

PLACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_header_of_the_specification_is_read_and_written() -> None:
    assert TraceContext.parse(HEADER) == PLACE
    assert PLACE.traceparent == HEADER
    unsampled = TraceContext.parse(HEADER[:-1] + "0")
    assert unsampled is not None
    assert not unsampled.is_sampled
    assert unsampled.traceparent.endswith("-00")


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "00",
        HEADER.upper(),
        HEADER.replace("00-", "ff-", 1),
        HEADER + "-more",
        HEADER[:-3],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        HEADER.replace("a", "g"),
    ],
)
def test_a_malformed_header_is_no_place(malformed: str) -> None:
    assert TraceContext.parse(malformed) is None


def test_later_versions_are_read_by_their_first_four_fields() -> None:
    assert TraceContext.parse(HEADER.replace("00-", "cc-", 1) + "-more") == PLACE


@given(st.text())
def test_any_text_is_parsed_or_refused_without_an_error(text: str) -> None:
    found = TraceContext.parse(text)
    assert found is None or TraceContext.parse(found.traceparent) == found


def test_headers_carry_the_place_whatever_their_case() -> None:
    headers: dict[str, str] = {}
    inject(headers)
    assert headers == {}
    assert extract(headers) is None
    with in_trace(PLACE):
        inject(headers)
    assert headers == {"traceparent": HEADER}
    assert extract({"TraceParent": HEADER}) == PLACE
    assert extract({"traceparent": "nonsense"}) is None


def test_a_process_starts_at_the_place_that_its_variable_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACEPARENT", HEADER)
    assert current_trace() == PLACE
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    assert current_trace() is None


def test_threads_have_no_place_unless_the_context_is_taken_along() -> None:
    seen: list[TraceContext | None] = []
    note = lambda: seen.append(current_trace())
    with in_trace(PLACE):
        for function in (note, propagate(note)):
            thread = threading.Thread(target=function)
            thread.start()
            thread.join()
    assert seen == [None, PLACE]


def test_a_propagated_function_runs_in_many_threads_at_once() -> None:
    ready = threading.Barrier(4)

    def meet() -> None:
        ready.wait(20)
        seen.append(current_trace())

    seen: list[TraceContext | None] = []
    with in_trace(PLACE):
        carried = propagate(meet)
    threads = [threading.Thread(target=carried) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [PLACE] * 4


# -------------------------------------------------------------------------------------- spans


def by_name(run: Run) -> dict[str, list[Event]]:
    run.flush()
    found: dict[str, list[Event]] = {}
    for event in run.store.events(run.run_id):
        found.setdefault(event.name, []).append(event)
    return found


def test_spans_nest_and_events_belong_to_the_span_they_happen_in(run: Run) -> None:
    with run.span(events.TRAIN_STEP, step=3) as outer:
        with run.span(events.TRAIN_FORWARD_BACKWARD):
            run.event(events.BATCH_BUILT)
        run.sample("p", "c")
    found = by_name(run)
    (step,), (inner,), (moment,) = (
        found[name] for name in ("train.step", "train.forward_backward", "batch.built")
    )
    assert step.trace_id == inner.trace_id == moment.trace_id == outer.place.trace_id
    assert (step.parent_id, inner.parent_id, moment.span_id) == (None, step.span_id, inner.span_id)
    assert step.span_id == outer.place.span_id
    assert step.step == 3
    assert step.duration_ns is not None
    assert inner.duration_ns is not None
    assert step.duration_ns >= inner.duration_ns
    assert step.measurements["duration_ms"] == step.duration_ns / 1e6
    assert moment.duration_ns is None
    assert run.store.samples(run.run_id)[0].trace_id == step.trace_id
    assert current_trace() is None


def test_a_span_keeps_what_is_learnt_in_it(run: Run) -> None:
    with run.span(events.TRAIN_STEP, epoch=2) as span:
        span.measure(loss=0.5, tokens=10)
        span.describe(last=True)
    (event,) = by_name(run)["train.step"]
    assert event.measurements["loss"] == 0.5
    assert event.metadata == {"epoch": 2, "last": True}


def test_a_span_that_raises_is_recorded_with_a_moment_of_its_own(run: Run) -> None:
    with pytest.raises(KeyError), run.span(events.TRAIN_STEP, announce=True, epoch=1):
        raise KeyError("lost")
    found = by_name(run)
    (started,), (failed,), (span,) = (
        found[name] for name in ("train.step.started", "train.step.exception", "train.step")
    )
    assert failed.metadata == {"epoch": 1, "error": "KeyError", "message": "'lost'"}
    assert span.metadata["error"] == "KeyError"
    assert started.span_id == failed.span_id == span.span_id
    assert started.metadata == {"epoch": 1}


def test_a_span_of_another_service_becomes_the_parent(run: Run) -> None:
    with in_trace(extract({"traceparent": HEADER})), run.span(events.LLM_REQUEST):
        pass
    (event,) = by_name(run)["llm.request"]
    assert (event.trace_id, event.parent_id) == (PLACE.trace_id, PLACE.span_id)


async def test_tasks_inherit_the_span_that_began_them(run: Run) -> None:
    async def call() -> None:
        with run.span(events.LLM_REQUEST):
            await asyncio.sleep(0)

    with run.span(events.TRAIN_STEP) as span:
        await asyncio.gather(call(), call())
    assert {event.parent_id for event in by_name(run)["llm.request"]} == {span.place.span_id}
