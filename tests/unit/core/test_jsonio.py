import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.core import jsonio
from tinsmith.core.errors import DataError
from tinsmith.core.ids import content_hash, new_id

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_round_trips(value: object) -> None:
    assert jsonio.loads(jsonio.dumps(value)) == value
    assert jsonio.loads(jsonio.dumps(value, indent=2)) == value


@given(st.text(st.characters(), max_size=20))
def test_any_text_can_be_encoded_lone_surrogates_too(text: str) -> None:
    assert jsonio.loads(jsonio.dumps({"text": text}).encode()) == {"text": text}


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}, object(), {1, 2}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="JSON"):
        jsonio.dumps(value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "[" * 100_000])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        jsonio.loads(text)


def test_malformed_json_is_a_value_error() -> None:
    with pytest.raises(json.JSONDecodeError):
        jsonio.loads("{")


def test_lines_are_appended_and_a_torn_last_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    jsonio.append_jsonl(path, {"step": 1})
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    jsonio.append_jsonl(path, {"step": 3, "text": "zwei\nZeilen"})
    assert path.read_text().split("\n") == [
        '{"step":1}',
        '{"step": 2, "lo',
        '{"step":3,"text":"zwei\\nZeilen"}',
        "",
    ]


def test_ids_are_fresh_and_carry_their_prefix() -> None:
    assert new_id() != new_id()
    assert new_id("run-").startswith("run-")
    assert len(new_id()) == 32


@given(st.lists(st.binary()))
def test_a_hash_of_parts_is_the_hash_of_the_whole(parts: list[bytes]) -> None:
    assert content_hash(parts) == content_hash(b"".join(parts))
    assert len(content_hash(parts)) == 32
