import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.client.metrics import combine_metrics, combine_outputs
from tinsmith.core.errors import ServerError
from tinsmith.types import ForwardBackwardOutput, TensorData

finite = st.floats(-1e6, 1e6, allow_nan=False)
batches = st.lists(finite, min_size=1, max_size=40)


@st.composite
def chunked(draw: st.DrawFn) -> list[list[float]]:
    """A batch of per-datum values, cut into non-empty chunks."""
    values = draw(batches)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(values) - 1)), max_size=6)))
    bounds = [0, *[cut for cut in cuts if cut < len(values)], len(values)]
    return [values[a:b] for a, b in itertools.pairwise(bounds)]


def metrics_of(values: list[float]) -> dict[str, float]:
    """What a service would report for one request with these per-datum values."""
    return {
        "x:sum": math.fsum(values),
        "x:mean": math.fsum(values) / len(values),
        "x:min": min(values),
        "x:max": max(values),
        "n:hash2": sum(int(value) & (2**64 - 1) for value in values),
    }


@given(chunked())
def test_combining_chunks_equals_computing_without_chunks(chunks: list[list[float]]) -> None:
    whole = [value for chunk in chunks for value in chunk]
    combined = combine_metrics([metrics_of(chunk) for chunk in chunks], [len(c) for c in chunks])
    expected = metrics_of(whole)
    for name in ("x:sum", "x:mean"):
        assert combined[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-6)
    for name in ("x:min", "x:max"):
        assert combined[name] == expected[name]
    assert combined["n:hash2"] == expected["n:hash2"] % 2**64


@given(chunked())
def test_slack_is_the_largest_chunk_above_the_mean(chunks: list[list[float]]) -> None:
    values = [sum(chunk) for chunk in chunks]
    sizes = [len(chunk) for chunk in chunks]
    names = ("load:slack", "load:max", "load:mean")
    combined = combine_metrics([dict.fromkeys(names, value) for value in values], sizes)
    slack = combined["load:max"] - combined["load:mean"]
    assert combined["load:slack"] == pytest.approx(slack)
    assert combined["load:slack"] >= -1e-6 * max(1.0, abs(combined["load:max"]))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.randoms())
def test_hashes_do_not_depend_on_the_order_of_chunks(values: list[int], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for name in ("ids:hash_unordered", "ids:hash2"):
        one, other = (
            combine_metrics([{name: float(v)} for v in order], [1] * len(order))
            for order in (values, shuffled)
        )
        assert one == other
        assert float(one[name]) == one[name] or name == "ids:hash2"


def test_hash_unordered_is_the_same_in_every_interpreter() -> None:
    code = (
        "from tinsmith.client.metrics import combine_metrics as c;"
        "print(int(c([{'a:hash_unordered': 3.0}, {'a:hash_unordered': 1.0}], [1, 1])"
        "['a:hash_unordered']))"
    )
    seen = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1
    here = combine_metrics([{"a:hash_unordered": 1.0}, {"a:hash_unordered": 3.0}], [1, 1])
    assert str(int(here["a:hash_unordered"])) in seen


def test_unique_keeps_every_value() -> None:
    combined = combine_metrics([{"clock_cycle:unique": v} for v in (4.0, 5.0, 6.0)], [1, 1, 1])
    assert combined == {
        "clock_cycle:unique": 4.0,
        "clock_cycle:unique_1": 5.0,
        "clock_cycle:unique_2": 6.0,
    }


def test_means_are_weighted_by_the_number_of_outputs() -> None:
    assert combine_metrics([{"x:mean": 1.0}, {"x:mean": 4.0}], [2, 1]) == {"x:mean": 2.0}


def test_a_mean_without_any_outputs_divides_by_nothing() -> None:
    assert combine_metrics([{"x:mean": 1.0}, {"x:mean": 3.0}], [0, 0]) == {"x:mean": 2.0}


def test_a_metric_that_a_chunk_lacks_is_left_out() -> None:
    assert combine_metrics([{"a:sum": 1.0, "b:sum": 1.0}, {"a:sum": 2.0}], [1, 1]) == {"a:sum": 3.0}


@pytest.mark.parametrize("name", ["loss", "loss:", ":sum", "a:b:sum", "loss:median", ""])
def test_a_name_without_a_known_reduction_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ServerError, match="metric=") as caught:
        combine_metrics([{name: 1.0}], [1])
    assert repr(name) in str(caught.value)


def test_outputs_are_concatenated_in_chunk_order() -> None:
    def output(*values: float) -> ForwardBackwardOutput:
        return ForwardBackwardOutput(
            loss_fn_output_type="ArrayRecord",
            loss_fn_outputs=[
                {"logprobs": TensorData.from_numpy(np.array([value], np.float32))}
                for value in values
            ],
            metrics={"loss:sum": sum(values)},
        )

    combined = combine_outputs([output(1.0, 2.0), output(3.0)])
    assert [o["logprobs"].tolist() for o in combined.loss_fn_outputs] == [[1.0], [2.0], [3.0]]
    assert combined.metrics == {"loss:sum": 6.0}
    assert combined.loss_fn_output_type == "ArrayRecord"
