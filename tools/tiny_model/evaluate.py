"""Measure the bundled model: ``python tools/tiny_model/evaluate.py src/tinsmith/bundled/tiny``.

Prints the tables of the model card: exact match on problems that training never saw, greedy and
sampled at temperature 1; facts asked in wordings that training never used for them; mean negative
log-likelihood of held-out conversations; some answers. ``--json FILE`` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from batches import PROMPT_WEIGHT, assistant_weights
from corpus import RELATIONS, conversations, fact, is_held_out, render
from tasks import MEASURED, TASKS, Exchange
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

SEED = 99
QUESTIONS = (
    "Hello!",
    "What is the capital of Italy?",
    "What colour is a tomato?",
    "What is the opposite of cheap?",
    "What is a library?",
    "How do I make tea?",
    "What does a cow eat?",
    "Name three vegetables.",
    "Write a sentence about a fox.",
    "What is 27 + 15?",
    "Sort these numbers: 42 7 19",
    "Reverse the word: lamp",
)


def answers(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[str],
    temperature: float,
) -> list[str]:
    """Answer questions in one batch; temperature 0 is greedy."""
    tokenizer.padding_side = "left"
    prompts = [
        render([{"role": "user", "content": question}]) + "<|im_start|>assistant\n"
        for question in questions
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0}
        if temperature
        else {"do_sample": False}
    )
    # The declared class leaves the generation mixin out.
    out = model.generate(**inputs, max_new_tokens=60, **how)  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def problems(task: str, difficulty: int, count: int) -> list[Exchange]:
    """Draw held-out problems of one task and difficulty."""
    rng = random.Random(f"{SEED} {task} {difficulty}")
    drawn: list[Exchange] = []
    while len(drawn) < count:
        problem = TASKS[task][0](rng, difficulty)
        if is_held_out(problem.key):
            drawn.append(problem)
    return drawn


def facts(count: int) -> list[Exchange]:
    """Draw facts in a wording that training never used for that subject."""
    rng = random.Random(SEED)
    drawn: list[Exchange] = []
    while len(drawn) < count:
        relation = rng.choice(tuple(RELATIONS.values()))
        item = fact(rng, relation, rng.choice(tuple(relation.items)))
        if is_held_out(item.key):
            drawn.append(item)
    return drawn


@torch.inference_mode()
def held_out_nll(model: Qwen3ForCausalLM, tokenizer: Tokenizer, count: int) -> tuple[float, float]:
    """Return the mean negative log-likelihood in nats: of the assistant's tokens, and of all."""
    stream = conversations(SEED, held_out=True)
    sums, counts = [0.0, 0.0], [0, 0]
    for _ in range(count):
        tokens = tokenizer.encode(render(next(stream))).ids
        own = torch.tensor(assistant_weights(tokens, tokenizer)[1:]) > PROMPT_WEIGHT
        logits_TV = model(torch.tensor([tokens])).logits[0, :-1].float()
        losses_T = torch.nn.functional.cross_entropy(
            logits_TV, torch.tensor(tokens[1:]), reduction="none"
        )
        for i, chosen in enumerate((own, torch.ones_like(own))):
            sums[i] += losses_T[chosen].sum().item()
            counts[i] += int(chosen.sum())
    return sums[0] / counts[0], sums[1] / counts[1]


def measure(folder: Path, count: int) -> dict[str, object]:
    """Measure everything and return it."""
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tasks = []
    for task, difficulties in MEASURED.items():
        for difficulty in difficulties:
            drawn = problems(task, difficulty, count)
            row: dict[str, object] = {"task": task, "difficulty": difficulty}
            for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
                given = answers(model, tokenizer, [p.question for p in drawn], temperature)
                row[name] = (
                    sum(g.strip() == p.answer for g, p in zip(given, drawn, strict=True)) / count
                )
            tasks.append(row)
    asked = facts(count)
    known = {
        name: sum(
            item.short.lower() in given.lower()
            for item, given in zip(
                asked,
                answers(model, tokenizer, [item.question for item in asked], temperature),
                strict=True,
            )
        )
        / count
        for name, temperature in (("greedy", 0.0), ("sampled", 1.0))
    }
    own, everything = held_out_nll(
        model, Tokenizer.from_file(str(folder / "tokenizer.json")), count
    )
    return {
        "num_problems": count,
        "tasks": tasks,
        "facts": known,
        "nll": {"assistant": own, "all": everything},
        "answers": dict(
            zip(QUESTIONS, answers(model, tokenizer, list(QUESTIONS), 0.0), strict=True)
        ),
    }


def as_markdown(result: dict) -> str:
    """Write the measurements as the tables of the model card."""
    lines = ["| task | difficulty | greedy | sampled, T=1 |", "|---|--:|--:|--:|"]
    for row in result["tasks"]:
        lines.append(
            f"| {row['task']} | {row['difficulty']} | {row['greedy']:.2f} | {row['sampled']:.2f} |"
        )
    known = result["facts"]
    lines.append(f"| facts, wording not seen | | {known['greedy']:.2f} | {known['sampled']:.2f} |")
    nll = result["nll"]
    lines += [
        "",
        (
            f"Mean NLL of {result['num_problems']} held-out conversations: "
            f"{nll['assistant']:.3f} nats a token of the assistant, {nll['all']:.3f} over all."
        ),
        "",
        "| question | greedy answer |",
        "|---|---|",
    ]
    lines += [f"| {question} | {answer} |" for question, answer in result["answers"].items()]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=300, help="problems for each figure")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    result = measure(args.model, args.count)
    print(as_markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
