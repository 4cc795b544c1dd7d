"""Every store: points, events, texts, artifacts, alerts, the tail and roll-ups."""

import itertools
import math
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.telemetry.records import (
    event,
    other_machine,
    points,
    rollup_row,
    sample,
    stored_run,
    triples,
)
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Batch,
    Cursor,
    RollupState,
)
from tinsmith.telemetry.stores import Store


def begin(store: Store, run_id: str, number: int, resumed_from_step: int | None = None) -> None:
    store.put_attempt(
        run_id,
        Attempt(
            attempt=number,
            started_ns=1,
            heartbeat_ns=1,
            resumed_from_step=resumed_from_step,
            **other_machine()._asdict(),
        ),
    )


def test_points_read_back_sorted_by_key_step_and_rank(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, points(("b", 2, 1.5), ("a", 7, 2.5, 1, 1, 99), ("a", 7, 3.5), ("a", 1, 0)))
    assert store.points(run_id).rows() == [
        ("a", 1, 0, 1, 5, 0.0),
        ("a", 7, 0, 1, 5, 3.5),
        ("a", 7, 1, 1, 99, 2.5),
        ("b", 2, 0, 1, 5, 1.5),
    ]


def test_extreme_numbers_are_exact_in_every_column(store: Store) -> None:
    run_id = stored_run(store)
    values = [5e-324, 0.0, 1.7976931348623157e308, 0.1, -1 / 3, 2.0**53 + 2]
    steps = [-(2**63), -1, 0, 2**31, 2**53 + 1, 2**63 - 1]
    rows = [("k", s, v, 3, 9, 2**62 + 1) for s, v in zip(steps, values, strict=True)]
    store.append(run_id, points(*rows))
    found = store.points(run_id)
    assert found.step.tolist() == steps
    assert [v.hex() for v in found.value.tolist()] == [v.hex() for v in values]
    assert set(found.ts_ns.tolist()) == {2**62 + 1}
    assert found.value.dtype == np.float64
    assert found.step.dtype == np.int64


def test_nan_and_infinities_are_values(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, points(("k", 1, math.nan), ("k", 2, math.inf), ("k", 3, -math.inf)))
    value = store.points(run_id).value
    assert np.isnan(value[0])
    assert value[1:].tolist() == [math.inf, -math.inf]
    batch, _ = store.tail(run_id, Cursor())
    assert np.isnan(batch.points.value[0])


def test_the_last_writing_of_a_point_wins_also_within_a_batch(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, points(("k", 1, 1.0), ("k", 2, 2.0), ("k", 1, 10.0)))
    store.append(run_id, points(("k", 2, math.nan)))
    store.append(run_id, points(("k", 2, 20.0)))
    assert triples(store.points(run_id)) == [("k", 1, 10.0), ("k", 2, 20.0)]


def test_points_are_selected_by_key_step_and_rank(store: Store) -> None:
    run_id = stored_run(store)
    grid = itertools.product("abc", range(6), (0, 1))
    store.append(run_id, points(*((key, step, step, rank) for key, step, rank in grid)))
    found = store.points(run_id, ["c", "a", "none"], first_step=2, last_step=3, ranks=[1])
    assert found.rows() == [
        ("c", 2, 1, 1, 5, 2.0),
        ("c", 3, 1, 1, 5, 3.0),
        ("a", 2, 1, 1, 5, 2.0),
        ("a", 3, 1, 1, 5, 3.0),
    ]
    assert set(found.names) <= {"c", "a"}
    assert len(store.points(run_id, [])) == 0
    assert len(store.points(run_id, ranks=[])) == 0
    assert len(store.points(run_id, ["a", "a"])) == 12


def test_more_keys_can_be_asked_for_than_a_statement_has_parameters(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, points(("k9", 1, 1.0), ("k40000", 1, 2.0)))
    asked = [f"k{i}" for i in range(50_000)]
    assert triples(store.points(run_id, asked)) == [("k9", 1, 1.0), ("k40000", 1, 2.0)]


def test_keys_of_any_kind_stay_apart(store: Store) -> None:
    run_id = stored_run(store)
    names = ["a/b", "a.b", "A/B", "ü", "u\u0308", "%", "_", "'; drop table", "x" * 1000, " ", "ß"]
    store.append(run_id, points(*((name, 1, float(i)) for i, name in enumerate(names))))
    for i, name in enumerate(names):
        assert triples(store.points(run_id, [name])) == [(name, 1, float(i))]


# ------------------------------------------------------------------------------------- attempts


def test_a_resumed_attempt_supersedes_the_steps_it_rewrites_and_hides_later_ones(
    store: Store,
) -> None:
    run_id = stored_run(store)
    begin(store, run_id, 1)
    store.append(run_id, points(*(("loss", step, 1.0) for step in range(10))))
    begin(store, run_id, 2, resumed_from_step=4)
    assert store.points(run_id).step.tolist() == [0, 1, 2, 3, 4]
    store.append(run_id, points(("loss", 5, 2.0, 0, 2), ("loss", 6, 2.0, 0, 2)))
    found = store.points(run_id)
    assert found.step.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.value.tolist() == [1.0] * 5 + [2.0] * 2


def test_old_lines_stay_to_be_looked_at(store: Store) -> None:
    run_id = stored_run(store)
    begin(store, run_id, 1)
    store.append(run_id, points(*(("loss", step, 1.0) for step in range(4))))
    begin(store, run_id, 2, resumed_from_step=1)
    store.append(run_id, points(("loss", 2, 2.0, 0, 2)))
    assert triples(store.points(run_id, attempt=1)) == [("loss", s, 1.0) for s in range(4)]
    assert triples(store.points(run_id, attempt=2)) == [("loss", 2, 2.0)]
    assert len(store.points(run_id, attempt=3)) == 0
    everything = store.points(run_id, attempt="all")
    assert list(zip(everything.step.tolist(), everything.attempt.tolist(), strict=True)) == [
        (0, 1), (1, 1), (2, 1), (2, 2), (3, 1)
    ]  # fmt: skip


def test_without_a_step_to_resume_from_only_rewritten_points_are_superseded(store: Store) -> None:
    run_id = stored_run(store)
    begin(store, run_id, 1)
    store.append(run_id, points(("loss", 1, 1.0), ("loss", 2, 1.0)))
    begin(store, run_id, 2)
    store.append(run_id, points(("loss", 1, 2.0, 0, 2), ("loss", 1, 9.0, 1, 1)))
    assert store.points(run_id).rows() == [
        ("loss", 1, 0, 2, 5, 2.0),
        ("loss", 1, 1, 1, 5, 9.0),
        ("loss", 2, 0, 1, 5, 1.0),
    ]


STEPS = st.integers(0, 12)
WRITES = st.lists(st.tuples(st.sampled_from("ab"), STEPS, st.integers(0, 1)), max_size=25)
LIVES = st.lists(st.tuples(st.none() | STEPS, WRITES), min_size=1, max_size=4)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lives=LIVES)
def test_the_effective_line_equals_replaying_every_life_on_a_dict(
    store: Store, lives: list[tuple[int | None, list[tuple[str, int, int]]]]
) -> None:
    run_id = stored_run(store)
    truth: dict[tuple[str, int, int], float] = {}
    value = 0.0
    for number, (resumed, writes) in enumerate(lives, start=1):
        begin(store, run_id, number, resumed)
        if resumed is not None:
            truth = {place: kept for place, kept in truth.items() if place[1] <= resumed}
        for key, step, rank in writes:
            value += 1.0
            truth[key, step, rank] = value
            store.append(run_id, points((key, step, value, rank, number)))
    assert {row[:3]: row[5] for row in store.points(run_id).rows()} == truth


# ------------------------------------------------------------------------------ other records


def test_events_read_back_as_they_were_written(store: Store) -> None:
    run_id = stored_run(store)
    full = event(
        duration_ns=7,
        step=2**40,
        rank=3,
        attempt=2,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        parent_id="00f067aa0ba902b7",
        inclusion_p=0.25,
        measurements={"loss": 0.1, "bad": math.inf, "worse": -math.inf, "n": 3.0},
        metadata={"text": "ü\n'", "list": [1, None, {"a": 2.5}], "flag": False},
    )
    bare = event("llm.request", ts_ns=5)
    store.append(run_id, Batch(events=(full, bare)))
    assert store.events(run_id) == [bare, full]


def test_nan_in_a_measurement_stays_nan(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, Batch(events=(event(measurements={"loss": math.nan}),)))
    assert math.isnan(store.events(run_id)[0].measurements["loss"])


def test_events_are_selected_by_pattern_time_trace_and_number(store: Store) -> None:
    run_id = stored_run(store)
    names = ["train.step", "train.epoch", "llm.request", "train.step", "Train.step"]
    written = [
        event(name, ts_ns=ts_ns, trace_id="a" * 32 if ts_ns % 2 else None)
        for ts_ns, name in enumerate(names)
    ]
    store.append(run_id, Batch(events=tuple(reversed(written))))

    def times(*args: str, **options: object) -> list[int]:
        return [one.ts_ns for one in store.events(run_id, *args, **options)]  # type: ignore[arg-type]

    assert times() == [0, 1, 2, 3, 4]
    assert times("train.*") == [0, 1, 3]
    assert times("*.step") == [0, 3, 4]
    assert times("train.step") == [0, 3]
    assert times("[lt]*.e*") == [1]
    assert times("*", since_ns=1, until_ns=3) == [1, 2, 3]
    assert times("*", trace_id="a" * 32) == [1, 3]
    assert times("*", limit=2) == [3, 4]
    assert times("train.*", limit=2) == [1, 3]
    assert times("*", limit=0) == []


def test_an_event_or_text_sent_twice_is_there_once(store: Store) -> None:
    run_id = stored_run(store)
    batch = Batch(events=(event(),), samples=(sample(),))
    store.append(run_id, batch)
    store.append(run_id, batch)
    assert store.events(run_id) == list(batch.events)
    assert store.samples(run_id) == list(batch.samples)


def test_texts_read_back_by_step(store: Store) -> None:
    run_id = stored_run(store)
    full = sample(
        step=9,
        rank=1,
        attempt=2,
        prompt="ü" * 10,
        completion="a\nb",
        token_logprobs=(-0.1, -math.inf, 0.0),
        rewards={"format": 1.0, "answer": 0.5},
        trace_id="a" * 32,
        metadata={"stop": "length"},
    )
    early = sample(step=-1, token_logprobs=())
    store.append(run_id, Batch(samples=(full, early)))
    assert store.samples(run_id) == [early, full]
    assert store.samples(run_id, first_step=0) == [full]
    assert store.samples(run_id, last_step=0) == [early]


def test_a_text_of_ten_megabytes_is_kept_whole(store: Store) -> None:
    run_id = stored_run(store)
    long = sample(completion="0123456789" * 1_000_000)
    store.append(run_id, Batch(samples=(long,)))
    assert store.samples(run_id) == [long]


def test_artifacts_are_known_by_digest_and_name(store: Store) -> None:
    run_id = stored_run(store)
    one = Artifact(
        digest="d" * 64,
        name="weights",
        kind="checkpoint",
        uri="file:///x",
        num_bytes=2**40,
        ts_ns=3,
        step=8,
        metadata={"a": 1},
    )
    moved = replace(one, uri="s3://bucket/x", ts_ns=4)
    other = replace(one, name="copy", ts_ns=1)
    store.append(run_id, Batch(artifacts=(one, other)))
    store.append(run_id, Batch(artifacts=(moved,)))
    assert store.artifacts(run_id) == [other, moved]


def test_an_alert_is_read_in_its_latest_state(store: Store) -> None:
    run_id = stored_run(store)
    opened = Alert(
        alert_id="1",
        rule="nan",
        message="loss is not finite",
        opened_ns=4,
        severity="error",
        key="loss",
        step=12,
        score=math.inf,
        threshold=3.5,
        metadata={"x": 1},
    )
    early = Alert(alert_id="2", rule="r", message="m", opened_ns=1)
    store.append(run_id, Batch(alerts=(opened, early)))
    closed = replace(opened, closed_ns=9)
    store.append(run_id, Batch(alerts=(closed,)))
    assert store.alerts(run_id) == [early, closed]


# ---------------------------------------------------------------------------------------- tail


def test_the_tail_shows_each_change_once_and_rewrites_at_their_new_place(store: Store) -> None:
    run_id = stored_run(store)
    nothing, start = store.tail(run_id, Cursor())
    assert (len(nothing), start) == (0, Cursor())
    store.append(run_id, points(("k", 1, 1.0), ("k", 2, 2.0)))
    batch, cursor = store.tail(run_id, Cursor())
    assert triples(batch.points) == [("k", 1, 1.0), ("k", 2, 2.0)]
    store.append(run_id, points(("k", 2, 20.0)))
    store.append(run_id, points(("k", 1, 10.0)))
    store.append(run_id, points(("k", 1, 11.0)))
    batch, cursor = store.tail(run_id, cursor)
    assert triples(batch.points) == [("k", 2, 20.0), ("k", 1, 11.0)]
    assert len(store.tail(run_id, cursor)[0]) == 0
    assert store.tail(run_id, cursor)[1] == cursor


def test_rewriting_the_newest_point_moves_the_cursor_every_time(store: Store) -> None:
    run_id = stored_run(store)
    cursor = store.append(run_id, points(("k", 1, 0.0)))
    for value in (1.0, 2.0, 3.0):
        after = store.append(run_id, points(("k", 1, value)))
        assert after.points > cursor.points
        batch, cursor = store.tail(run_id, cursor)
        assert triples(batch.points) == [("k", 1, value)]
        assert cursor == after


def test_the_tail_comes_in_pages_of_each_kind(store: Store) -> None:
    run_id = stored_run(store)
    written = points(*(("k", step, float(step)) for step in range(7)))
    store.append(run_id, replace(written, events=tuple(event(ts_ns=-i) for i in range(3))))
    seen: list[int] = []
    ids: list[int] = []
    cursor, sizes = Cursor(), []
    while True:
        batch, cursor = store.tail(run_id, cursor, limit=3)
        if not len(batch):
            break
        sizes.append(len(batch.points))
        seen += batch.points.step.tolist()
        ids += [one.ts_ns for one in batch.events]
    assert sizes == [3, 3, 1]
    assert seen == list(range(7))
    assert ids == [0, -1, -2]


def test_the_cursor_behind_a_batch_is_where_the_tail_goes_on(store: Store) -> None:
    run_id = stored_run(store)
    alert = Alert(alert_id="1", rule="r", message="m", opened_ns=1)
    file = Artifact(digest="d", name="n", kind="k", uri="u", num_bytes=1, ts_ns=1)
    everything = replace(
        points(("k", 1, 1.0)),
        events=(event(),),
        samples=(sample(),),
        artifacts=(file,),
        alerts=(alert,),
    )
    behind = store.append(run_id, everything)
    assert store.tail(run_id, Cursor())[1] == behind
    assert len(store.tail(run_id, behind)[0]) == 0
    assert store.append(run_id, Batch()) == behind
    changed = replace(alert, closed_ns=3)
    store.append(run_id, Batch(alerts=(changed,)))
    assert store.tail(run_id, behind)[0].alerts == (changed,)


def test_appending_the_tail_to_another_run_copies_it_whenever_it_was_read(store: Store) -> None:
    source, copy = stored_run(store), stored_run(store)
    chance = random.Random(3)
    cursor = Cursor()
    for _ in range(30):
        rows = [(chance.choice("abc"), chance.randrange(9), chance.random()) for _ in range(9)]
        store.append(source, points(*rows))
        if chance.random() < 0.5:
            batch, cursor = store.tail(source, cursor, limit=chance.randrange(1, 12))
            store.append(copy, batch)
    while len((page := store.tail(source, cursor, limit=5))[0]):
        store.append(copy, page[0])
        cursor = page[1]
    assert store.points(copy).rows() == store.points(source).rows()


def test_a_reader_at_the_tail_misses_nothing_while_threads_write(store: Store) -> None:
    run_id = stored_run(store)
    num_threads, num_batches = 3, 20

    def write(rank: int) -> None:
        for step in range(num_batches):
            store.append(run_id, points(("k", step, 1.0, rank), ("l", step, 1.0, rank)))

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(num_threads)]
    for thread in threads:
        thread.start()
    seen: set[tuple[str, int, int]] = set()
    cursor = Cursor()
    while True:
        is_last_look = not any(thread.is_alive() for thread in threads)
        batch, cursor = store.tail(run_id, cursor, limit=7)
        seen |= {(key, step, rank) for key, step, rank, *_ in batch.points.rows()}
        if is_last_look and not len(batch):
            break
    assert len(seen) == num_threads * num_batches * 2


# ------------------------------------------------------------------------------------ roll-ups


def test_roll_ups_are_replaced_with_the_state_that_they_make_right(store: Store) -> None:
    run_id = stored_run(store)
    assert store.rollup_state(run_id) == RollupState()
    rows = [rollup_row(bucket=b, rank=r, maximum=float(b)) for b in range(3) for r in (0, 1)]
    first = RollupState(cursor=10, cuts={2: 40})
    assert store.replace_rollups(run_id, rows, [], first, RollupState())
    assert store.rollup_state(run_id) == first
    assert store.rollups(run_id, ["loss"], 100) == rows
    some = store.rollups(run_id, ["loss"], 100, first_bucket=1, last_bucket=1, ranks=[1])
    assert some == [rows[3]]
    assert store.rollups(run_id, ["loss"], 1000) == []
    changed = rows[0]._replace(n=9, sketch=b"")
    second = RollupState(cursor=11)
    assert store.replace_rollups(run_id, [changed], [("loss", 1, 100, 2)], second, first)
    assert store.rollups(run_id, ["loss"], 100) == [changed, *rows[1:5]]


def test_roll_ups_can_be_read_without_their_sketches(store: Store) -> None:
    run_id = stored_run(store)
    store.replace_rollups(run_id, [rollup_row()], [], RollupState(cursor=1), RollupState())
    bare = store.rollups(run_id, ["loss"], 100, with_sketches=False)
    assert bare == [rollup_row(sketch=b"")]


def test_a_refresh_that_another_one_overtook_writes_nothing(store: Store) -> None:
    run_id = stored_run(store)
    store.replace_rollups(run_id, [rollup_row()], [], RollupState(cursor=5), RollupState())
    late = store.replace_rollups(
        run_id, [rollup_row(n=99)], [], RollupState(cursor=4), RollupState()
    )
    assert not late
    assert store.rollups(run_id, ["loss"], 100) == [rollup_row()]
    assert store.rollup_state(run_id) == RollupState(cursor=5)


def test_roll_up_rows_keep_extreme_and_missing_numbers(store: Store) -> None:
    run_id = stored_run(store)
    edges = {"first": math.inf, "total": -math.inf, "minimum": 5e-324, "first_step": -3}
    row = rollup_row(n=0, bucket=-(2**40), key="ü", **edges)
    store.replace_rollups(run_id, [row], [], RollupState(cursor=1), RollupState())
    assert store.rollups(run_id, ["ü"], 100) == [row]
    empty = row._replace(mean=math.nan)
    store.replace_rollups(run_id, [empty], [], RollupState(cursor=2), RollupState(cursor=1))
    assert math.isnan(store.rollups(run_id, ["ü"], 100)[0].mean)


def test_roll_ups_of_several_keys_come_in_the_order_asked(store: Store) -> None:
    run_id = stored_run(store)
    rows = [rollup_row(key=key, bucket=b) for key in "ab" for b in (1, 0)]
    store.replace_rollups(run_id, rows, [], RollupState(cursor=1), RollupState())
    found = store.rollups(run_id, ["b", "a"], 100)
    assert [(row.key, row.bucket) for row in found] == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]


# ------------------------------------------------------------------------------------ failures


def test_a_batch_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    run_id = stored_run(store)
    unspeakable = event(metadata={"x": object()})
    batch = replace(points(("k", 1, 1.0)), events=(event(), unspeakable))
    with pytest.raises(ValueError, match="not representable as JSON"):
        store.append(run_id, batch)
    assert len(store.points(run_id)) == 0
    assert store.events(run_id) == []
    assert store.keys(run_id) == []


def test_closing_twice_is_no_error(store: Store) -> None:
    stored_run(store)
    store.close()
    store.close()
