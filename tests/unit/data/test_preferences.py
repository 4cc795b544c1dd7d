"""Comparisons as examples: what carries weight, what is cut, what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from tinsmith.core.errors import DataError
from tinsmith.data import PreferenceDataset, load_comparisons, read_comparisons
from tinsmith.data.supervised import ExampleFormat
from tinsmith.renderers import Renderer, TrainOnWhat, get_renderer, get_tokenizer


@pytest.fixture(scope="module")
def renderer(tiny_dir: Path) -> Renderer:
    return get_renderer("chatml", get_tokenizer("tinsmith/tiny"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dataset_of(path: Path, renderer: Renderer, **changes: Any) -> PreferenceDataset:
    settings: dict[str, Any] = {"max_length": 100, "on_too_long": "error"} | changes
    form = ExampleFormat(renderer, TrainOnWhat.CUSTOMIZED, **settings)
    return PreferenceDataset.from_comparisons(read_comparisons(path), form)


def test_the_answers_alone_carry_weight(renderer: Renderer, tmp_path: Path) -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Before"},
            {"role": "user", "content": "Well?"},
        ],
        "chosen": "Better",
        "rejected": [
            {"role": "assistant", "content": "Worse"},
            {"role": "user", "content": "Between"},
            {"role": "assistant", "content": "Worst"},
        ],
    }
    [pair] = dataset_of(write(tmp_path / "pairs.jsonl", [row]), renderer).build([0])
    texts = []
    for built in pair:
        inputs = built.datum.loss_fn_inputs
        trained = inputs["target_tokens"].to_numpy()[inputs["weights"].to_numpy() != 0]
        texts.append(renderer.tokenizer.decode(trained.tolist(), skip_special_tokens=True))
    assert "Better" in texts[0]
    assert "Worse" in texts[1]
    assert "Worst" in texts[1]
    for text in texts:
        assert "Before" not in text
        assert "Between" not in text


def test_a_comparison_is_left_out_or_cut_for_either_of_its_answers(
    renderer: Renderer, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "a " * 200, "rejected": "b"},
        {"prompt": "Hi", "chosen": "a", "rejected": "b " * 200},
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        {"prompt": "Hi " * 200, "chosen": "a", "rejected": "b"},
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    skipped = dataset_of(path, renderer, on_too_long="skip")
    assert [comparison.line for comparison in skipped.comparisons] == [3]
    assert skipped.counts.num_too_long_skipped == 3
    cut = dataset_of(path, renderer, on_too_long="truncate")
    assert [comparison.line for comparison in cut.comparisons] == [1, 2, 3]
    assert (cut.counts.num_truncated, cut.counts.num_without_loss_skipped) == (2, 1)
    lost = [
        sum(built.num_truncated_tokens for built in pair) for pair in cut.build(range(len(cut)))
    ]
    assert cut.counts.num_truncated_tokens == sum(lost)
    with pytest.raises(DataError, match=r"pairs.jsonl:1: the conversation has \d+ tokens"):
        dataset_of(path, renderer)


def test_held_out_comparisons_are_not_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(8)]
    path = write(tmp_path / "pairs.jsonl", [*rows, rows[0]])
    other = write(tmp_path / "other.jsonl", [rows[3], rows[4]])
    data = load_comparisons(str(path), test_size=3, test_data=[str(other)], seed=2)
    assert {name: len(held_out) for name, held_out in data.held_out.items()} == {"": 3, "other": 2}

    def asked(comparisons: Any) -> set[str]:
        return {str(comparison.prompt[0].get("content")) for comparison in comparisons}

    unseen = asked(data.held_out[""]) | asked(data.held_out["other"])
    assert asked(data.train) == {f"Q{i}" for i in range(8)} - unseen
    assert data.sha256 != load_comparisons(str(path), test_size=3, seed=2).sha256
