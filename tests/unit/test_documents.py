"""Documentation is true: its links lead somewhere, and its commands, options, targets, metrics and tests exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samepaged.cli import command_parser
from samepaged.metrics.catalogue import SECTIONS
from tests.support.references import function_names

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parents[2]
PAGES = sorted(
    Path(line)
    for line in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=TREE, check=True, capture_output=True, text=True
    ).stdout.splitlines()
)
# It speaks of commands and targets of earlier versions.
HISTORY = Path("CHANGELOG.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")
METRIC = re.compile(r"\bsamepage_\w*[a-z]\b(?![*{]?\w*…)")
CODE = re.compile(r"```.*?```|`[^`]*`|^ {4}[^\n]*$", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = (LINK.sub(lambda match: match[0][1 : match[0].index("]")], heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def commands(page: Path) -> Iterator[str]:
    """Lines of code blocks that call samepaged."""
    for line in (TREE / page).read_text().splitlines():
        if found := re.fullmatch(r"(?: {4,}|\| )(?:\$ |# )?(?:sudo )?(samepaged [^|]*)", line):
            yield found[1]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", (TREE / page).read_text())):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (TREE / page.parent / path) if path else TREE / page
        assert found.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{page}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=str)
def test_commands_are_parsed(page: Path) -> None:
    for line in commands(page):
        try:
            words = shlex.split(line.split("…")[0], comments=True)[1:]
        except ValueError:  # a quotation that goes on in the next line
            continue
        # A line that goes on, or is a usage with placeholders in brackets, is not a command to copy.
        if not words or words[-1] == "\\" or re.search(r"[\[<>]|\.\.\.", line):
            continue
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                command_parser(words).parse_args(words)
        except SystemExit as end:
            assert not end.code, f"{page}: {line}: {said.getvalue()}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=str)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (TREE / "Makefile").read_text(), flags=re.MULTILINE))
    code = "\n".join(CODE.findall((TREE / page).read_text()))
    asked = set(re.findall(r"(?:^ {4}(?:sudo )?|`)make ([a-z][a-z0-9-]*)\b", code, flags=re.MULTILINE))
    assert asked <= targets, f"{page}: make {asked - targets}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=str)
def test_metrics_exist(page: Path) -> None:
    suffixes = ("", "_total", "_bucket", "_sum", "_count", "_info")
    names = {metric.name + suffix for section in SECTIONS.values() for metric in section for suffix in suffixes}
    code = "\n".join(CODE.findall((TREE / page).read_text()))
    asked = {name for name in METRIC.findall(code) if f"{name}:" not in code}
    wrong = {name for name in asked if name not in names and not any(one.startswith(name) for one in names)}
    assert not wrong, f"{page}: {wrong}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_tests_exist(page: Path) -> None:
    for path, name in TEST.findall((TREE / page).read_text()):
        assert (TREE / path).is_file(), f"{page}: {path}"
        if name:
            assert name in function_names(TREE / path), f"{page}: {path} has no {name}"


def test_duration_of_make_test_is_the_same_everywhere() -> None:
    text = "\n".join(" ".join((TREE / page).read_text().split()) for page in PAGES if page != HISTORY)
    text += " ".join((TREE / "Makefile").read_text().split())
    near = re.findall(r"make test\b(?!-)[^.|]{0,120}?\b(\w+(?: to \w+)? minutes)", text)
    assert near
    assert set(near) == {"seven minutes"}, near
