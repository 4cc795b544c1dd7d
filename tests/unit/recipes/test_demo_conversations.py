"""The demo's conversations: fixed by the seed, well formed, and apart from the demo's questions."""

import json
import subprocess
import sys

import pytest

from tinsmith.recipes.demo_conversations import demo_questions, make_conversations, write_jsonl


def test_the_same_seed_gives_the_same_conversations():
    assert make_conversations(seed=3) == make_conversations(seed=3)
    assert make_conversations(seed=3) != make_conversations(seed=4)


@pytest.mark.parametrize("count", [1, 320])
def test_as_many_come_as_were_asked_for_and_no_opening_question_repeats(count):
    conversations = make_conversations(count=count)
    assert len({c["messages"][0]["content"] for c in conversations}) == count


@pytest.mark.parametrize("count", [0, 100_000])
def test_an_impossible_count_is_refused(count):
    with pytest.raises(ValueError, match=f"count={count}"):
        make_conversations(count=count)


def test_user_and_assistant_take_turns_and_say_something_short():
    for conversation in make_conversations():
        assert list(conversation) == ["messages"]
        messages = conversation["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(set(m) == {"role", "content"} for m in messages)
        assert all(m["content"] == m["content"].strip() != "" for m in messages)
        assert all(len(m["content"]) <= 120 for m in messages)


def test_every_answer_is_in_the_style():
    answers = [
        message["content"]
        for conversation in make_conversations()
        for message in conversation["messages"]
        if message["role"] == "assistant"
    ]
    assert all(answer.startswith(("Arr!", "Aye", "Ahoy")) for answer in answers)


def test_the_demo_questions_are_never_trained_on():
    asked = {
        message["content"]
        for seed in range(3)
        for conversation in make_conversations(seed=seed, count=400)
        for message in conversation["messages"]
        if message["role"] == "user"
    }
    assert not asked & set(demo_questions())
    for subject in ("Italy", "snow", " hot?", "a river", "spoon"):
        assert not any(subject in question for question in asked)


def test_the_file_has_one_conversation_a_line(tmp_path):
    path = tmp_path / "demo.jsonl"
    conversations = make_conversations(count=5)
    write_jsonl(path, conversations)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == conversations


def test_the_generator_is_light():
    code = (
        "import sys, tinsmith.recipes.demo_conversations;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
