"""The bundled tiny model: it loads offline, is small, and answers simple questions."""

from pathlib import Path

import pytest

import tinsmith

pytest.importorskip("transformers")

FOLDER = Path(tinsmith.__file__).parent / "bundled" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        FOLDER, dtype=torch.float32, local_files_only=True
    ).eval()


def test_the_folder_holds_the_hugging_face_layout_and_fits_the_wheel():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 7_500_000


def test_it_is_a_small_qwen3_with_tied_embeddings(model):
    assert model.config.model_type == "qwen3"
    assert 3_000_000 <= sum(p.numel() for p in model.parameters()) <= 3_500_000
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_chat_template_is_chatml(tokenizer):
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye!"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nAnswer briefly.<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nBye!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_special_tokens_are_single_tokens_and_none_is_added(tokenizer):
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert [tokenizer(special).input_ids for special in specials] == [[0], [1], [2]]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert tokenizer.bos_token is None
    assert 1 not in tokenizer("Hello").input_ids


@pytest.mark.parametrize(
    "text",
    [
        "plain words, 1234 and 5!",
        "  two  spaces\n\n\ttab ",
        "Größe, école, niño",
        "日本語 и русский",
        "🦜🏴‍☠️",
        "",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_are_split_one_by_one(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("12345").input_ids)
    assert tokens == list("12345")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Italy?", "Rome"),
        ("What colour is snow?", "white"),
        ("What is the opposite of hot?", "cold"),
        ("What does a cow eat?", "grass"),
        ("Hello!", "help you"),
        ("What is 2 + 3?", "5"),
    ],
)
def test_simple_questions_are_answered_right(model, tokenizer, question, answer):
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**inputs, max_new_tokens=40)
    given = out[0, inputs["input_ids"].shape[1] :]
    assert answer in tokenizer.decode(given)
    assert given[-1] == tokenizer.eos_token_id
