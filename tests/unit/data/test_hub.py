"""Data sets of the Hub, loaded by `datasets` from copies on disk as it would from the Hub."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.conftest import chat
from tinsmith.core.errors import DataError, UnknownNameError
from tinsmith.data import (
    HubDataset,
    hub_rows,
    list_presets,
    load_training_data,
    open_conversations,
    read_comparisons,
    read_prompts,
)
from tinsmith.data.hub import find_dataset, preset

datasets = pytest.importorskip("datasets", reason="needs the extra data")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def no_robots_rows(count: int) -> list[dict[str, Any]]:
    """Rows as HuggingFaceH4/no_robots has them."""
    return [
        {
            "prompt": f"Prompt {i}",
            "prompt_id": f"id{i}",
            "messages": chat(f"Prompt {i}", f"Answer {i}")["messages"],
            "category": "Generation",
        }
        for i in range(count)
    ]


@pytest.fixture
def parquet_copy(tmp_path: Path) -> Path:
    """A folder laid out as on the Hub: Parquet files named by split."""
    folder = tmp_path / "no_robots"
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 30), ("test", 5)):
        table = datasets.Dataset.from_list(no_robots_rows(count))
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def test_a_folder_of_parquet_files_loads_as_the_hub_would(parquet_copy: Path) -> None:
    rows = open_conversations(f"hf:{parquet_copy}")
    assert len(rows) == 30
    assert rows[4].messages[1]["content"] == "Answer 4"
    assert len(open_conversations(f"hf:{parquet_copy}:test")) == 5
    assert len(open_conversations(f"hf:{parquet_copy}:train[:7]")) == 7


def test_the_first_prompts_of_a_shuffled_set_are_those_of_datasets(parquet_copy: Path) -> None:
    rows = open_conversations(f"hf:{parquet_copy}")
    table = datasets.load_dataset(str(parquet_copy), split="train").shuffle(seed=0)
    order = np.random.default_rng(0).permutation(len(rows))
    ours = [rows[int(place)].messages[0]["content"] for place in order[:5]]
    assert ours == table["prompt"][:5]


def test_a_saved_data_set_loads_with_its_splits(tmp_path: Path) -> None:
    splits = {
        name: datasets.Dataset.from_list(no_robots_rows(count))
        for name, count in (("train", 4), ("test", 2))
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert len(open_conversations(f"hf:{tmp_path / 'saved'}:test")) == 2
    with pytest.raises(DataError, match=r"Unknown split .*'train', 'test'"):
        open_conversations(f"hf:{tmp_path / 'saved'}:validation")


def test_rows_of_another_form_become_messages(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(
        [
            {
                "system": "Think.",
                "conversations": [
                    {"from": "human", "value": "2 + 2?"},
                    {"from": "gpt", "value": "4"},
                ],
            }
        ]
    )
    table.save_to_disk(str(tmp_path / "saved"))
    shape = preset("openthoughts")
    source = HubDataset(str(tmp_path / "saved"), form=shape.form, columns=shape.columns)
    (row,) = hub_rows(source, "train")
    assert row["messages"] == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]


def test_a_preset_is_found_by_its_short_name_and_by_its_hub_id() -> None:
    assert find_dataset("no_robots") == find_dataset("HuggingFaceH4/no_robots")
    assert find_dataset("HuggingFaceH4/ultrachat_200k@main").revision == "main"
    assert find_dataset("HuggingFaceH4/ultrachat_200k@main").train == "train_sft"
    assert find_dataset("someone/else") == HubDataset("someone/else")
    assert {preset(name).kind for name in list_presets()} == {
        "conversations",
        "comparisons",
        "prompts",
    }


def test_an_unknown_preset_and_a_set_of_another_kind_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'no_robots'"):
        open_conversations("hf:no_robot")
    with pytest.raises(DataError, match="hf:gsm8k: holds prompts, not conversations"):
        open_conversations("hf:gsm8k")


def test_prompts_and_comparisons_load_from_a_set_too(tmp_path: Path) -> None:
    asked = {"question": "2 + 2?", "answer": "It is #### 4"}
    datasets.Dataset.from_list([asked]).save_to_disk(str(tmp_path / "asked"))
    (prompt,) = read_prompts(f"hf:{tmp_path / 'asked'}")
    assert prompt.final_answer == "4"
    answers = {
        name: [{"role": "user", "content": "Q"}, {"role": "assistant", "content": name}]
        for name in ("chosen", "rejected")
    }
    datasets.Dataset.from_list([{"prompt": "Q", **answers}]).save_to_disk(str(tmp_path / "pairs"))
    (pair,) = read_comparisons(f"hf:{tmp_path / 'pairs'}")
    assert pair.chosen == ({"role": "assistant", "content": "chosen"},)
    with pytest.raises(DataError, match="hf:no_robots: holds conversations, not prompts"):
        read_prompts("hf:no_robots")


def test_a_set_that_is_not_here_is_one_line_offline() -> None:
    with pytest.raises(DataError, match="split 'train' could not be loaded") as caught:
        open_conversations("hf:no-such-owner/no-such-set")
    assert "\n" not in str(caught.value)


def test_a_bad_row_is_named_by_set_and_row(tmp_path: Path) -> None:
    rows = [*no_robots_rows(2), {**no_robots_rows(1)[0], "messages": []}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"saved:3: messages is empty"):
        open_conversations(f"hf:{tmp_path / 'saved'}")


def test_a_hub_set_trains_like_a_file_that_says_the_same(
    parquet_copy: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "no_robots.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in no_robots_rows(30)))
    hub = load_training_data(f"hf:{parquet_copy}", test_size=3, seed=5)
    file = load_training_data(str(lines), test_size=3, seed=5)
    assert hub.sha256 == file.sha256
    assert [c.messages for c in hub.train] == [c.messages for c in file.train]


def test_columns_that_nothing_is_made_of_may_hold_anything(tmp_path: Path) -> None:
    rows = [{**row, "when": datetime.datetime(2026, 1, 2)} for row in no_robots_rows(3)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert len(open_conversations(f"hf:{tmp_path / 'saved'}")) == 3
    datasets.Dataset.from_list([{"text": "x"}]).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match=r":1: messages is missing \(keys here: text\)"):
        open_conversations(f"hf:{tmp_path / 'other'}")


def test_a_part_of_a_saved_set_is_that_part(tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    table = datasets.Dataset.from_list(no_robots_rows(10))
    table.save_to_disk(str(one))
    datasets.DatasetDict({"train": table, "test": table.select([8, 9])}).save_to_disk(str(several))

    def questions(name: str) -> list[Any]:
        return [row.messages[0]["content"] for row in open_conversations(name)]

    everything = questions(f"hf:{one}")
    assert len(everything) == 10
    assert questions(f"hf:{one}:train[:3]") == everything[:3]
    assert questions(f"hf:{several}:train[50%:]") == everything[5:]
    assert questions(f"hf:{several}:test+train[:1]") == [*everything[8:], everything[0]]
    for name in (f"hf:{one}:test", f"hf:{several}:valid", f"hf:{one}:train[x"):
        with pytest.raises(DataError, match="could not be loaded"):
            open_conversations(name)


def test_a_folder_that_is_not_there_or_has_no_revisions_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: the directory does not exist"):
        open_conversations(f"hf:{tmp_path}/nowhere")
    with pytest.raises(DataError, match="a directory has no revision"):
        open_conversations(f"hf:{tmp_path}@main")
