"""`tinsmith demo` from end to end, as a newcomer runs it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith.recipes.demo_conversations import make_conversations, write_jsonl

TINSMITH = Path(sys.executable).with_name("tinsmith")

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run_tinsmith(
    *words: str, folder: Path, stdin: str = "", timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TINSMITH), *words],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_the_demo_lowers_the_loss_changes_the_answers_and_its_next_commands_work(
    tmp_path: Path,
) -> None:
    done = run_tinsmith("demo", "--run-dir", "demo", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    run = tmp_path / "demo"
    assert str(run) in shown
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    nll = [row["eval/nll"] for row in rows if "eval/nll" in row]
    assert nll[-1] < 0.7 * nll[0], "the held-out loss falls by at least 30 %"
    adapter = next(line.split()[-1] for line in shown.splitlines() if line.startswith("adapter"))
    assert (Path(adapter) / "adapter_model.safetensors").exists()

    commands = [shlex.split(line) for line in shown.partition("Next:")[2].splitlines() if line]
    chat, sample = commands[0], commands[1]
    assert (chat[1], sample[1]) == ("chat", "sample")
    talked = run_tinsmith(*chat[1:], "--temperature", "0", folder=tmp_path, stdin="Hello!\n")
    assert talked.returncode == 0, talked.stderr
    assert "matey" in talked.stdout
    sampled = run_tinsmith(*sample[1:], "--temperature", "0", "--json", folder=tmp_path)
    assert "Paris" in json.loads(sampled.stdout)["samples"][0]["text"]


def test_the_demo_takes_a_file_of_the_user_s_own_and_prints_json(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    write_jsonl(data, make_conversations(seed=3, count=40))
    done = run_tinsmith("demo", "--data", str(data), "--max-steps", "6", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["nll_after"] < result["nll_before"]
    assert result["num_steps"] == 6
    assert {"question", "before", "after"} == set(result["answers"][0])
    assert Path(result["run_dir"]).is_relative_to(os.environ["TINSMITH_HOME"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file holds no conversation"),
        ('{"messages": [{"content": "Hi"}]}\n', "messages[0].role is missing"),
        ("{not json}\n", "not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_the_place(
    tmp_path: Path, content: str, message: str
) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text(content, encoding="utf-8")
    done = run_tinsmith("demo", "--data", str(data), folder=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert message in errors[0]
    assert "bad.jsonl" in errors[0]
    assert len(errors) == 2
    assert "Traceback" not in done.stderr
