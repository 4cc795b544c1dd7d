"""The pages that are made from the code hold what the code says now."""

import inspect
import json
from pathlib import Path

import pytest

import tinsmith
from tests.assets import REPOSITORY
from tests.tinker_surface import CLIENTS
from tools.reference_pages import BEGIN, END, pages, with_methods

PAGES = pages()
OFFICIAL = json.loads((REPOSITORY / "tests/golden/tinker_surface.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_current(path: Path) -> None:
    hint = "run: python -m tools.reference_pages"
    assert path.read_text(encoding="utf-8") == PAGES[path], hint


@pytest.mark.parametrize("client", CLIENTS)
def test_every_public_method_and_parameter_of_a_client_stands_in_the_api_page(client: str) -> None:
    page = next(text for path, text in PAGES.items() if path.name == "sdk-api.md")
    section = page.partition(f"\n## {client}\n")[2].partition("\n## ")[0]
    owner = getattr(tinsmith, client)
    for name, value in inspect.getmembers(owner):
        if name.startswith("_") or not callable(value):
            continue
        shown = section.partition(f"\n{name}(")[2].partition("```")[0]
        assert shown, f"{client}.{name} is missing"
        missing = [p for p in inspect.signature(value).parameters if p != "self" and p not in shown]
        assert missing == [], f"{client}.{name}"


def test_every_method_of_the_official_clients_has_a_verdict() -> None:
    page = next(text for path, text in PAGES.items() if path.name == "compatibility.md")
    rows = page.partition(BEGIN)[2].partition(END)[0]
    for client in CLIENTS:
        for method in OFFICIAL["classes"][client]["methods"]:
            verdict = rows.partition(f"| `{client}.{method}` | ")[2].partition(" |")[0]
            assert verdict in {"equal", "better", "different", "refused", "absent", "not public"}


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="methods:begin"):
        with_methods("# Compatibility")
