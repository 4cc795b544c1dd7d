"""The size report: how long our files and functions are, and how many parameters they take.

The house rule is an alarm, not the design: split by noun, never golf. Median and 95th percentile
are printed beside their goals; only the hard limits fail. Generated modules are not counted.

Usage: python tools/size_report.py [--json] [FOLDER ...]
"""

import argparse
import ast
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_FOLDERS = ("src", "tools", "bench")
GENERATED_SUFFIXES = ("_pb2.py", "_pb2_grpc.py")


@dataclass(frozen=True)
class Rule:
    """One measured quantity with its goals and its hard limit."""

    name: str
    median_goal: int
    p95_goal: int
    hard_limit: int


FILE_LINES = Rule("file, lines", 200, 500, 800)
FUNCTION_LINES = Rule("function body, lines", 10, 45, 100)
POSITIONAL = Rule("parameters, positional", 1, 3, 8)
TOTAL = Rule("parameters, total", 3, 8, 8)
RULES = (FILE_LINES, FUNCTION_LINES, POSITIONAL, TOTAL)


@dataclass(frozen=True)
class Measurement:
    """One number, and the place it was measured at."""

    rule: Rule
    value: int
    place: str


def source_files(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the hand-written Python files under some folders."""
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if not path.name.endswith(GENERATED_SUFFIXES) and "__pycache__" not in path.parts:
                yield path


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, its docstring left out."""
    body = node.body
    if ast.get_docstring(node, clean=False) is not None:
        body = body[1:]
    if not body:
        return 0
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int]:
    """Count a function's positional parameters and all of them, `self` and `cls` left out."""
    positional = [*node.args.posonlyargs, *node.args.args]
    if positional and positional[0].arg in {"self", "cls"}:
        positional = positional[1:]
    return len(positional), len(positional) + len(node.args.kwonlyargs)


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Say whether a function is a command, whose parameters are its flags."""
    return any(
        isinstance(call, ast.Attribute) and call.attr in {"command", "option", "argument"}
        for decorator in node.decorator_list
        for call in ast.walk(decorator)
    )


def is_given(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> bool:
    """Say whether a function's parameters are not ours to choose: it says so on its first line."""
    return lines[node.lineno - 1].endswith("the SDK's signature")


def measure(path: Path) -> Iterator[Measurement]:
    """Yield every measurement of one file."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path
    lines = text.splitlines()
    yield Measurement(FILE_LINES, len(lines), str(name))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{name}:{node.lineno} {node.name}"
            yield Measurement(FUNCTION_LINES, body_lines(node), place)
            if not is_command(node) and not is_given(node, lines):
                positional, total = parameters(node)
                yield Measurement(POSITIONAL, positional, place)
                yield Measurement(TOTAL, total, place)


def quantile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


def summary(measurements: Sequence[Measurement]) -> list[dict[str, object]]:
    """Return one row per rule: count, median, p95, longest, and what exceeds the hard limit."""
    rows: list[dict[str, object]] = []
    for rule in RULES:
        found = [m for m in measurements if m.rule is rule]
        values = [m.value for m in found]
        over = sorted((m for m in found if m.value > rule.hard_limit), key=lambda m: -m.value)
        rows.append(
            {
                "rule": rule.name,
                "count": len(values),
                "median": quantile(values, 0.5),
                "median_goal": rule.median_goal,
                "p95": quantile(values, 0.95),
                "p95_goal": rule.p95_goal,
                "longest": max(values, default=0),
                "hard_limit": rule.hard_limit,
                "over": [{"place": m.place, "value": m.value} for m in over],
            }
        )
    return rows


def print_table(rows: Sequence[dict[str, object]]) -> None:
    """Print the report for people."""
    print(f"{'':24}{'count':>7}{'median':>9}{'goal':>6}{'p95':>6}{'goal':>6}{'max':>6}{'limit':>7}")
    for row in rows:
        print(
            f"{row['rule']!s:24}{row['count']:>7}{row['median']:>9}{row['median_goal']:>6}"
            f"{row['p95']:>6}{row['p95_goal']:>6}{row['longest']:>6}{row['hard_limit']:>7}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 1 where something exceeds a hard limit."""
    parser = argparse.ArgumentParser(description="Report the sizes of files and functions.")
    parser.add_argument("folders", nargs="*", type=Path, help="default: src tools bench")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    folders = options.folders or [REPOSITORY / name for name in DEFAULT_FOLDERS]
    rows = summary([m for path in source_files(folders) for m in measure(path)])
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)
    failed = False
    for row in rows:
        over = row["over"]
        for item in over if isinstance(over, list) else []:
            failed = True
            print(
                f"error: {item['place']}: {row['rule']} = {item['value']}, at most "
                f"{row['hard_limit']}; split it by noun",
                file=sys.stderr,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
