"""What a run trains on: mixtures, held-out sets by name, and no row in both."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.conftest import chat
from tinsmith.core.errors import ConfigError, DataError
from tinsmith.data import load_training_data
from tinsmith.data.rows import fingerprints


def write(path: Path, questions: list[str]) -> Path:
    path.write_text("".join(json.dumps(chat(question)) + "\n" for question in questions))
    return path


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    write(tmp_path / "a.jsonl", [f"A{i}" for i in range(40)])
    write(tmp_path / "b.jsonl", [f"B{i}" for i in range(20)])
    path = tmp_path / "mix.toml"
    path.write_text(
        'stop_when = "all_exhausted"\n'
        '[[sources]]\ndata = "a.jsonl"\nweight = 3\n[[sources]]\ndata = "b.jsonl"\nname = "bees"\n'
    )
    return path


def test_a_mixture_is_split_before_it_is_mixed_and_each_source_is_held_out_by_name(
    mixture: Path,
) -> None:
    data = load_training_data(str(mixture), test_size=0.1, seed=2)
    assert {name: len(rows) for name, rows in data.held_out.items()} == {"a": 4, "bees": 2}
    unseen = {found for rows in data.held_out.values() for found in fingerprints(rows)}
    assert unseen.isdisjoint(fingerprints(data.train))
    texts = [str(c.messages[0]["content"]) for c in data.train]
    assert len(set(texts)) == 36 + 18
    assert sum(text[0] == "A" for text in texts) > 2 * sum(text[0] == "B" for text in texts)


def test_the_seed_fixes_a_mixture(mixture: Path) -> None:
    first, again, other = (load_training_data(str(mixture), seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    assert [c.messages for c in first.train] == [c.messages for c in again.train]


@given(seed=st.integers(0, 2**31), test_size=st.integers(0, 5))
def test_no_held_out_conversation_is_trained_on_though_sources_overlap(
    tmp_path_factory: pytest.TempPathFactory, seed: int, test_size: int
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    write(folder / "a.jsonl", [f"Q{i}" for i in range(12)])
    write(folder / "b.jsonl", [f"Q{i}" for i in range(6, 18)])
    (folder / "mix.toml").write_text(
        '[[sources]]\ndata = "a.jsonl"\n[[sources]]\ndata = "b.jsonl"\n'
    )
    data = load_training_data(str(folder / "mix.toml"), test_size=test_size, seed=seed)
    unseen = {found for rows in data.held_out.values() for found in fingerprints(rows)}
    assert unseen.isdisjoint(fingerprints(data.train))


def test_further_sets_are_held_out_by_name_and_what_they_share_is_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = write(tmp_path / "train.jsonl", [f"Q{i}" for i in range(10)])
    probe = write(tmp_path / "probe set.jsonl", ["Q3", "new"])
    data = load_training_data(str(train), test_size=2, test_data=[str(probe), str(probe)])
    assert list(data.held_out) == ["", "probe-set", "probe-set-2"]
    assert len(data.train) == 8 - data.num_duplicates_dropped
    assert "Q3" not in {c.messages[0]["content"] for c in data.train}
    if data.num_duplicates_dropped:
        assert "equal a held-out one and are left out" in caplog.text


def test_a_set_that_holds_out_everything_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ["Q"])
    with pytest.raises(ConfigError, match=r"test_data: all conversations of .* are also held out"):
        load_training_data(str(train), test_data=[str(train)])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[sources]\n", "not TOML"),
        ("", "sources: Field required"),
        ("sources = []\n", "sources: List should have at least 1 item"),
        (
            '[[sources]]\ndata = "a.jsonl"\nweight = 0\n',
            "sources.0.weight: Input should be greater",
        ),
        ('[[sources]]\ndata = "a.jsonl"\nwieght = 2\n', "sources.0.wieght: Extra inputs"),
        ('[[sources]]\ndata = "none.jsonl"\n', "none.jsonl: does not exist"),
    ],
)
def test_what_is_no_mixture_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_training_data(str(path))
    assert what in str(caught.value)


def test_a_missing_mixture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mix\.toml: does not exist; check the path"):
        load_training_data(str(tmp_path / "mix.toml"))


def test_a_mixture_is_no_set_to_evaluate_on(mixture: Path) -> None:
    with pytest.raises(DataError, match=r"mix\.toml: is a mixture; name one of its sources"):
        load_training_data(str(mixture), test_data=[str(mixture)])
