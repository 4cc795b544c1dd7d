import pickle

import pytest

from tinsmith.core import errors
from tinsmith.core.errors import (
    AlreadyExistsError,
    ConfigError,
    DataError,
    EngineDiedError,
    TinsmithError,
    UserError,
    missing_extra,
    unknown_name,
)

EXAMPLES = [
    TinsmithError("m"),
    UserError("m", field="f", hint="h"),
    DataError("m", field="weights", datum_index=3, file="a.jsonl", line=7),
    ConfigError("rank=0: must be 1..256", field="rank", hint="try rank=32"),
    AlreadyExistsError("m"),
    EngineDiedError("m"),
    unknown_name("renderer", "chatlm", ["chatml", "role_colon"]),
    missing_extra("torch", "engine"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_pickle_with_their_attributes(error: TinsmithError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)


def test_a_subclass_with_required_keywords_pickles_too() -> None:
    copy = pickle.loads(pickle.dumps(NeedsKeyword("m", number=3)))
    assert (copy.message, copy.number) == ("m", 3)


class NeedsKeyword(UserError):
    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number


def test_the_text_is_message_then_hint() -> None:
    assert str(EXAMPLES[3]) == "rank=0: must be 1..256; try rank=32"
    assert str(EXAMPLES[0]) == "m"


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (UserError("m"), ValueError),
        (unknown_name("k", "n", []), LookupError),
        (missing_extra("torch", "engine"), ImportError),
        (EngineDiedError("m"), RuntimeError),
    ],
)
def test_errors_are_also_the_fitting_stdlib_type(
    error: TinsmithError, parent: type[Exception]
) -> None:
    assert isinstance(error, parent)


def test_categories_say_whose_fault_it_is() -> None:
    assert {type(error).__name__: error.category for error in EXAMPLES} == {
        "TinsmithError": "server",
        "UserError": "user",
        "DataError": "user",
        "ConfigError": "user",
        "AlreadyExistsError": "user",
        "EngineDiedError": "server",
        "UnknownNameError": "user",
        "MissingExtraError": "user",
    }


def test_an_unknown_name_offers_the_nearest_in_any_case() -> None:
    assert unknown_name("model", "TINSMITH/TINY", ["tinsmith/tiny"]).hint == (
        "did you mean 'tinsmith/tiny'?"
    )
    assert unknown_name("model", "zzz", ["tinsmith/tiny"]).hint is None
    assert str(unknown_name("model", "x", [])) == "model='x': unknown; known: none"


def test_many_known_names_are_cut_short() -> None:
    text = str(unknown_name("model", "x", [f"model-{i}" for i in range(50)]))
    assert "model-11, ... (50 in all)" in text
    assert "model-12" not in text


def test_a_missing_extra_says_the_line_to_type() -> None:
    assert missing_extra("torch", "engine").hint == 'pip install "tinsmith[engine]"'


def test_every_public_name_exists() -> None:
    assert all(hasattr(errors, name) for name in errors.__all__)
