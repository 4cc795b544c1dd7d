"""Every room says what is public, and what it says exists."""

import importlib
import pkgutil

import pytest

import tinsmith

ROOMS = sorted(
    f"tinsmith.{module.name}" for module in pkgutil.iter_modules(tinsmith.__path__) if module.ispkg
)


def test_every_public_name_of_tinsmith_resolves() -> None:
    for name in tinsmith.__all__:
        assert getattr(tinsmith, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ServiceKlient'"):
        _ = tinsmith.ServiceKlient  # type: ignore[attr-defined]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_lists_its_public_names_and_has_them(room: str) -> None:
    module = importlib.import_module(room)
    assert hasattr(module, "__all__"), f"{room} has no __all__"
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert missing == []
    assert module.__doc__, f"{room} has no docstring"
