"""A script for the official `tinker` package finds here what it uses there, but for what is listed.

`tests/golden/tinker_surface.json` records the official package; `tests/tinker_surface.py` says how.
That it is the installed package's is tested in tests/interop.
"""

import json

from tests.assets import REPOSITORY
from tests.tinker_surface import differences, surface_of

GOLDEN = REPOSITORY / "tests" / "golden"
OFFICIAL = json.loads((GOLDEN / "tinker_surface.json").read_text(encoding="utf-8"))
DEVIATIONS = {
    place: group["reason"]
    for group in json.loads((GOLDEN / "tinker_deviations.json").read_text(encoding="utf-8"))
    for place in group["places"]
}


def test_every_difference_is_listed_with_its_reason_and_no_other_is() -> None:
    found = differences(OFFICIAL, surface_of("tinsmith"))
    unlisted = {place: what for place, what in found.items() if place not in DEVIATIONS}
    assert unlisted == {}
    assert sorted(set(DEVIATIONS) - set(found)) == [], "listed, and no longer different"


def test_every_difference_is_in_the_documentation() -> None:
    page = (REPOSITORY / "docs/reference/compatibility.md").read_text(encoding="utf-8")
    assert [place for place in DEVIATIONS if f"`{place}`" not in page] == []
    assert OFFICIAL["version"] in page


def test_the_comparison_sees_what_scripts_would_trip_over() -> None:
    theirs = {
        "names": ["A", "B"],
        "types": [],
        "classes": {
            "A": {
                "fields": {},
                "members": ["attribute"],
                "methods": {
                    "gone": [],
                    "same": [["x", "positional", "required"], ["y", "keyword", "1"]],
                    "moved": [["x", "positional", "0"], ["y", "positional", "0"]],
                    "changed": [["x", "positional", "0"], ["old", "keyword", "None"]],
                },
            },
            "types.T": {"fields": {"f": "1", "g": "required"}, "members": [], "methods": {}},
        },
    }
    ours = {
        "names": ["A", "C"],
        "types": [],
        "classes": {
            "A": {
                "fields": {},
                "members": [],
                "methods": {
                    "same": [
                        ["x", "positional", "None"],
                        ["y", "keyword", "1.0"],
                        ["more", "keyword", "0"],
                    ],
                    "moved": [["y", "positional", "0"], ["x", "positional", "0"]],
                    "changed": [["x", "positional", "2"], ["new", "keyword", "required"]],
                },
            },
            "types.T": {"fields": {"f": "2", "g": "0"}, "members": [], "methods": {}},
        },
    }
    assert differences(theirs, ours) == {
        "B": "missing",
        "A.gone": "missing",
        "A.attribute": "missing",
        "A.moved(x)": "by position there, elsewhere here",
        "A.moved(y)": "by position there, elsewhere here",
        "A.changed(x)": "0 there, 2 here",
        "A.changed(old)": "missing",
        "A.changed(new)": "required here only",
        "types.T.f": "1 there, 2 here",
    }
