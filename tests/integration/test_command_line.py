"""The command line against real processes: serving, sampling, training, and what goes wrong."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from tinsmith.recipes.demo_conversations import make_conversations, write_jsonl

TINSMITH = Path(sys.executable).with_name("tinsmith")
START_TIMEOUT_S = 60

pytestmark = pytest.mark.integration


def run_tinsmith(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TINSMITH), *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A service started by `tinsmith serve`, and its address."""
    state = ["--state-dir", str(tmp_path_factory.mktemp("served"))]
    process = subprocess.Popen(
        [str(TINSMITH), "serve", "--port", "0", "--model", "tinsmith/tiny", *state],
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: Queue[str] = Queue()
    stderr = process.stderr
    assert stderr is not None
    threading.Thread(target=lambda: [lines.put(line) for line in stderr], daemon=True).start()
    try:
        yield address_in(lines), process
    finally:
        process.kill()
        process.wait()


def address_in(lines: "Queue[str]") -> str:
    """Return the address that the service prints once it listens."""
    seen = []
    try:
        while True:
            seen.append(lines.get(timeout=START_TIMEOUT_S))
            if "listening on " in seen[-1]:
                return seen[-1].split("listening on ")[1].split()[0]
    except Empty:
        raise AssertionError(f"no address: {seen}") from None


def test_a_served_model_answers_the_same_for_the_same_seed(
    served: tuple[str, subprocess.Popen[str]],
) -> None:
    words = ["sample", "What is 2 + 3?", "--base-url", served[0], "--seed", "7", "--json"]
    first, second = run_tinsmith(*words, "-n", "2"), run_tinsmith(*words, "-n", "2")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout)
    assert len(json.loads(first.stdout)["samples"]) == 2
    assert first.stderr == ""


def test_serving_ends_where_no_given_model_can_be_loaded(tmp_path: Path) -> None:
    words = ["--port", "0", "--model", "tinsmith/tiny", "--device", "gpu"]
    done = run_tinsmith("serve", *words, "--state-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("device='gpu': cannot be used: ") == 1
    assert "hint: leave it out" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_text_is_continued_with_raw(served: tuple[str, subprocess.Popen[str]]) -> None:
    words = ["sample", "-", "--raw", "--max-tokens", "5", "--base-url", served[0], "--json"]
    done = run_tinsmith(*words, stdin="Once upon a time")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"][0]["num_tokens"] <= 5


def test_a_chat_keeps_its_history_until_told_otherwise(
    served: tuple[str, subprocess.Popen[str]],
) -> None:
    words = ["chat", "--base-url", served[0], "--temperature", "0", "--max-tokens", "10"]
    done = run_tinsmith(*words, stdin="Hello!\n/undo\nHello!\n/new\nHello!\n/help\n/quit\n")
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if line]
    assert len(set(answers)) == 1, "the same words after the same history get the same answer"
    assert done.stderr.count("/undo") == 2, "the help is shown at the start and when asked for"


def test_the_doctor_finds_the_service(served: tuple[str, subprocess.Popen[str]]) -> None:
    done = run_tinsmith("doctor", "--base-url", served[0], "--json")
    assert done.returncode == 0, done.stdout
    last = json.loads(done.stdout)[-1]
    assert last["name"] == f"service at {served[0]}"
    assert "tinsmith/tiny" in last["detail"]


def test_a_base_model_that_is_not_served_is_refused_with_its_name(
    served: tuple[str, subprocess.Popen[str]],
) -> None:
    done = run_tinsmith("sample", "Hi", "--model", "tinsmith/tyni", "--base-url", served[0])
    assert done.returncode == 1
    assert "tinsmith/tyni" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_service_in_order(served: tuple[str, subprocess.Popen[str]]) -> None:
    _, process = served
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0


LONG = json.dumps(
    {
        "messages": [
            {"role": "user", "content": "Go on!"},
            {"role": "assistant", "content": "word " * 4000},
        ]
    }
)
GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}'


@pytest.mark.parametrize(
    ("content", "flags", "said", "cure"),
    [
        (f"{GOOD}\n{{oops\n", [], "data.jsonl:2: not JSON", "one JSON object a line"),
        ("\n\n", [], "the file holds no conversation", "write one conversation a line"),
        (
            f'{GOOD}\n{{"messages": [{{"content": "Hi"}}]}}\n',
            [],
            "data.jsonl:2: messages[0].role is missing",
            "add it",
        ),
        (f"{GOOD}\n{LONG}\n", [], "data.jsonl:2:", "on_too_long"),
        (f"{GOOD}\n", ["--model", "./no-such-model"], "no-such-model", ""),
        (f"{GOOD}\n", ["--learning-rate", "0"], "learning_rate=0", "--learning-rate"),
        (f"{GOOD}\n", ["--lora-rank", "x"], "--lora-rank", "--help"),
        (f"{GOOD}\n", ["--test-size", "1"], "none would be left to train on", "hold out fewer"),
    ],
    ids=["malformed", "empty", "no role", "too long", "no model", "value", "type", "split"],
)
def test_what_cannot_be_trained_is_one_line_with_the_place_and_the_cure(
    tmp_path: Path, content: str, flags: list[str], said: str, cure: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content, encoding="utf-8")
    run_dir = tmp_path / "run"
    done = run_tinsmith("train", "sft", str(data), "--run-dir", str(run_dir), *flags)
    lines = done.stderr.splitlines()
    assert done.returncode in {1, 2}
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], done.stderr
    assert said in lines[0]
    assert cure in lines[1]
    assert not run_dir.exists(), "a run that never began leaves nothing behind"


def test_training_prints_what_the_next_command_needs(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_jsonl(data, make_conversations(seed=1, count=20))
    run_dir = tmp_path / "run"
    words = ["train", "sft", str(data), "--run-dir", str(run_dir)]
    words += ["--test-size", "4", "--batch-size", "8", "--lora-rank", "4", "--json"]
    done = run_tinsmith(*words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_steps"] == 2
    assert (Path(result["adapter_dir"]) / "adapter_config.json").exists()
    assert done.stderr == "", "no progress where there is no terminal"
    sampled = run_tinsmith("sample", "Hello!", "--model", str(run_dir), "--max-tokens", "5")
    assert sampled.returncode == 0, sampled.stderr
