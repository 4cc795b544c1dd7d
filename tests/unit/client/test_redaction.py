"""What is told of an error holds no keys, no paths of the person's and no source."""

import json
from pathlib import Path

import pytest

from tests.unit.client.tokens import make_token
from tinsmith.client.redaction import MAX_TEXT_CHARS, redacted, safe_data, safe_traceback
from tinsmith.core.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "key tml-SECRETvalue_1 refused",
        f"token {make_token(lifetime_s=1, sub='SECRET')}",
        "hf_SECRETSECRET was given",
        "Authorization: Bearer SECRET.x",
        "https://user:SECRET@host/x",
        "GET /archive?path=x&signature=SECRET&expires=3",
        "api_key='SECRET'",
        '{"api-key": "SECRET"}',
        "TINSMITH_API_KEY=SECRET",
        "password: SECRET",
        "the key is operators-SECRET, as given",
    ],
)
def test_what_looks_like_a_key_is_taken_out(text: str) -> None:
    shown = redacted(text, ["operators-SECRET"])
    assert "SECRET" not in shown
    assert shown != ""


def test_ordinary_messages_stay_as_they_are() -> None:
    text = "target_tokens[3]=70000: must be below 4096; datum 2 has 3 tokens, top_k=5"
    assert redacted(text, ["", "a"]) == text


def test_the_persons_folders_are_taken_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    others = [f"/{root}/somebody/y" for root in ("home", "Users")]
    assert redacted(f"{tmp_path}/x and {others[0]} and {others[1]}") == "~/x and ~/y and ~/y"


def test_long_texts_are_cut() -> None:
    assert len(redacted("x " * 5000)) == MAX_TEXT_CHARS + 3


def test_data_is_json_whatever_it_was() -> None:
    loop: list[object] = []
    loop.append(loop)
    value = {
        "ok": [1, 2.5, True, None, "tml-SECRET"],
        "nan": float("nan"),
        "object": object(),
        "loop": loop,
        "x-api-key": "SECRET",
        3: b"SECRET",
    }
    said = json.dumps(safe_data(value), allow_nan=False)
    assert "SECRET" not in said
    assert json.loads(said)["ok"] == [1, 2.5, True, None, "tml-***"]


def raise_secret() -> None:
    secret = "SECRET"
    raise UserError("x" + secret[:0])


def test_frames_are_named_from_their_package_on() -> None:
    with pytest.raises(UserError) as caught:
        raise_secret()
    shown = safe_traceback(caught.value)
    assert shown is not None
    assert "SECRET" not in shown
    assert str(Path.cwd()) not in shown
    assert shown.splitlines()[-1].startswith("test_redaction.py:")
    assert safe_traceback(UserError("not raised")) is None
