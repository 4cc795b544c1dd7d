"""Tables go through CSV, JSONL and Parquet and come back equal."""

import math
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith.core.errors import ConfigError, DataError, UnknownNameError
from tinsmith.telemetry.exchange.formats import convert, detect_format, read_table, write_table

FORMATS = ("csv", "jsonl", "parquet")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["NaN", "Infinity", "true", "12", "-", "", 'a "b", c', "line\r\nbreak", "007", "$text"]
)
numbers = st.integers(-(2**62), 2**62) | st.floats()
nested = st.recursive(
    st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["a", "b/c", "ü", "x:json", "x:json:json", "two words", 'q"', "$text"])
tables = st.lists(st.dictionaries(names, nested, max_size=5), max_size=6)


def same(left: Any, right: Any) -> bool:
    """Equal by value, NaN being one value; a truth value is no number and -0.0 is not 0.0."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or (left == right and math.copysign(1, left) == math.copysign(1, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


@pytest.mark.parametrize("table_format", FORMATS)
@settings(max_examples=50)
@given(rows=tables)
def test_any_table_comes_back_equal(
    table_format: Any, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "table.bin"
    write_table(rows, path, table_format)
    expected = [row for row in rows if row]
    if not expected and table_format != "parquet":
        assert not path.read_text().strip()
        return
    assert same(list(read_table(path)), expected)


@settings(max_examples=50)
@given(rows=tables.filter(any))
def test_a_table_goes_round_all_three_formats(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round")
    write_table(rows, folder / "a.jsonl")
    assert convert(folder / "a.jsonl", folder / "b.csv") == "jsonl"
    assert convert(folder / "b.csv", folder / "c.parquet") == "csv"
    assert convert(folder / "c.parquet", folder / "d.jsonl") == "parquet"
    assert same(list(read_table(folder / "d.jsonl")), [row for row in rows if row])


def test_columns_that_come_late_are_kept(tmp_path: Path) -> None:
    rows = [{"step": 1, "a": 0.5}, {"step": 2, "b": 0.25}]
    for table_format in ("csv", "parquet"):
        path = tmp_path / f"t.{table_format}"
        write_table(rows, path)
        assert list(read_table(path)) == rows


def test_pandas_reads_the_csv_with_the_right_types(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table([{"step": 1, "nll": 0.1, "note": "a, b"}, {"step": 2, "nll": math.nan}], path)
    first, second = pandas.read_csv(path).to_dict("records")
    assert first == {"step": 1, "nll": 0.1, "note": "a, b"}
    assert second["step"] == 2
    assert math.isnan(second["nll"])


def test_other_peoples_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        "\ufeffstep,name,id,date,ok\r\n1,adam w,007,2026-01-02,True\n\n2,,12,,\n".encode()
    )
    assert list(read_table(path)) == [
        {"step": 1, "name": "adam w", "id": "007", "date": "2026-01-02", "ok": True},
        {"step": 2, "id": 12},
    ]


def test_the_content_tells_the_format_and_the_name_does_not(tmp_path: Path) -> None:
    for table_format in FORMATS:
        path = tmp_path / f"{table_format}.txt"
        write_table([{"a": 1}], path, table_format)  # type: ignore[arg-type]
        assert detect_format(path) == table_format


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\x00\x00", "neither CSV nor JSONL nor Parquet"),
        (b"PAR1 and nothing more", "not a whole Parquet file"),
        (b"a,a\n1,2\n", "columns named twice: ['a']"),
        (b"a,b\n1,2\n3\n", "line 3: 1 fields for 2 columns"),
        (b'a,b\n1,"2\n3\n', "line 2: a quote that does not end"),
        (b'a,b\n1,2"2"\n', "line 2: a quote within field 2"),
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        (b'{"a": 1}\n{"a": 1', "the last line has no end, as a crash leaves it"),
        (b'{"a": 1}\n[1]\n', "line 2: holds list; must be an object"),
        (b"x:json\n{\n", "line 2, column 'x:json': not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_table(path))
    assert message in str(caught.value)


def test_nothing_is_left_of_a_table_that_fails_halfway(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"a": 1}
        raise RuntimeError("no more")

    target = tmp_path / "t.jsonl"
    target.write_text("before")
    with pytest.raises(RuntimeError, match="no more"):
        write_table(rows(), target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_a_name_without_a_format_and_an_unknown_format_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its ending says no format"):
        write_table([], tmp_path / "t.xls")
    with pytest.raises(UnknownNameError, match="did you mean 'parquet'"):
        write_table([], tmp_path / "t", "parqet")  # type: ignore[arg-type]
