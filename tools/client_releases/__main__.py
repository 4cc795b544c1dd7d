"""Run one small program with several releases of the official client, and write the table.

Each release lives in an environment of its own outside the repository, made at its first use, which
takes the network. The service is real and starts on a state folder that is thrown away. `--write`
puts the table into docs/reference/compatibility.md.

    python -m tools.client_releases --write
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tinsmith.core.paths import cache_dir
from tools.client_releases.environments import interpreter
from tools.client_releases.script import STEPS

RELEASES = ("0.38.0", "0.26.0", "0.25.0", "0.24.1", "0.16.1", "0.3.0", "0.1.0")
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "compatibility.md"
START, END = "<!-- client releases: start -->", "<!-- client releases: end -->"
SCRIPT = Path(__file__).with_name("script.py")
API_KEY = "tml-releases"
TIMEOUT_S = 300

Outcomes = dict[str, str]


def outcomes_of(python: Path, service: ServiceProcess) -> Outcomes:
    """What each step of the program ended in."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(SCRIPT), service.ready["url"], API_KEY, BASE_MODEL],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=environment | {"TINKER_TELEMETRY": "0"},
    )
    if done.returncode:
        return dict.fromkeys(STEPS, done.stderr.strip().splitlines()[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])


def run(releases: list[str], cache: Path) -> dict[str, Outcomes]:
    """The outcomes of all releases against one service."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        options = ("--model", BASE_MODEL, "--api-key", API_KEY)
        with ServiceProcess(Path(folder), *options) as service:
            for release in releases:
                python = interpreter(cache / f"tinker-{release}", [f"tinker=={release}"])
                print(f"running tinker=={release}", file=sys.stderr)
                found[release] = outcomes_of(python, service)
    return found


def table(found: dict[str, Outcomes]) -> str:
    """The outcomes as Markdown."""
    head = f"| Release | {' | '.join(name.replace('_', ' ') for name in STEPS)} |"
    rows = [head, "|---|" + "---|" * len(STEPS)]
    notes = []
    for release, outcomes in found.items():
        cells = ["yes" if outcomes[name] == "ok" else "no" for name in STEPS]
        rows.append(f"| {release} | {' | '.join(cells)} |")
        failures = [text for text in outcomes.values() if text != "ok"]
        if failures:
            notes.append(f"{release} ends in `{failures[0][:120]}`.")
    return "\n".join([*rows, *(["", *notes] if notes else [])])


def write(text: str) -> None:
    """Put the table between its markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Exit code 1 when the newest release does not work in full."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("releases", nargs="*", default=list(RELEASES))
    parser.add_argument("--cache", type=Path, default=cache_dir() / "client-releases")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args()
    found = run(options.releases, options.cache)
    text = table(found)
    print(text)
    if options.write:
        write(text)
    return 0 if set(found[options.releases[0]].values()) == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
