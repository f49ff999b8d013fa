"""`python -m tools.prose [--check] [--list PATTERN] [PATH ...]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.prose import extract
from tools.prose.patterns import PATTERNS, sentence_lengths, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.prose.patterns import Pattern

TREE: Final = Path(__file__).parents[2]
EXCEPTIONS: Final = Path(__file__).with_name("exceptions.txt")
README: Final = "README.md"
README_SENTENCE_WORDS: Final = 17
# The areas that `--check` compares with the rates of `PATTERNS`. Comments and messages are only counted.
HELD: Final = ("docs", "docstrings")
REMEDY: Final = "CONTRIBUTING.md has the rules; `python -m tools.prose --list PATTERN` prints the occurrences"
AREAS: Final = (*HELD, "comments", "messages", README)


@dataclass(frozen=True)
class Located:
    """A passage and its place: the file's path below the tree."""

    area: str
    path: str
    passage: extract.Passage


def tracked(paths: list[str]) -> list[str]:
    """Return the files under version control below `paths`, or all."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=TREE, check=True, capture_output=True, text=True).stdout
    return sorted(path for path in listed.split("\0") if path and (TREE / path).is_file())


def passages(paths: list[str]) -> Iterator[Located]:
    """Yield all prose of these files by area."""
    for path in tracked(paths):
        if path.endswith(".md"):
            found = {"docs": extract.markdown}
        elif path.endswith(".py"):
            found = {"docstrings": extract.docstrings, "comments": extract.comments}
            if path.startswith("daemon/"):
                found["messages"] = extract.messages
        elif path.endswith((".8", ".in")) and "/man/" in path:
            found = {"docs": extract.manual}
        else:
            continue
        text = (TREE / path).read_text()
        for area, function in found.items():
            for passage in function(text):
                yield Located(area, path, passage)
                if path == README:
                    yield Located(README, path, passage)


def exceptions() -> set[tuple[str, str]]:
    """Reviewed occurrences: the file's path and a part of the passage's text."""
    pairs = set()
    for line in EXCEPTIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            path, _, text = line.partition(": ")
            pairs.add((path, text))
    return pairs


def rates(located: list[Located]) -> dict[tuple[str, str], float]:
    """Occurrences per 1,000 words by area and name of the pattern."""
    total: dict[str, int] = defaultdict(int)
    hits: dict[tuple[str, str], int] = defaultdict(int)
    for one in located:
        total[one.area] += words(one.passage.text)
        for pattern in PATTERNS:
            hits[one.area, pattern.name] += len(pattern.regex.findall(one.passage.text))
    return {key: 1000 * count / max(total[key[0]], 1) for key, count in hits.items()}


def mean_sentence(located: list[Located]) -> float:
    """Words per sentence of README.md, without headings and tables."""
    lengths = [
        length
        for one in located
        if one.area == README and one.passage.sentences
        for length in sentence_lengths(one.passage.text)
    ]
    return sum(lengths) / max(len(lengths), 1)


def occurrences(located: list[Located], pattern: Pattern) -> Iterator[tuple[Located, str]]:
    """Each occurrence with the words around it."""
    for one in located:
        if one.area == README:
            continue
        text = " ".join(one.passage.text.split())
        for match in pattern.regex.finditer(text):
            yield one, text[max(match.start() - 50, 0) : match.end() + 50]


def table(located: list[Located]) -> str:
    """Rates of each area beside the highest that is allowed."""
    found = rates(located)
    lines = [f"{'per 1,000 words':<30}" + "".join(f"{area:>12}" for area in AREAS) + f"{'at most':>10}"]
    for pattern in PATTERNS:
        values = "".join(f"{found.get((area, pattern.name), 0):>12.2f}" for area in AREAS)
        lines.append(f"{pattern.name:<30}{values}{pattern.at_most:>10}")
    lines.append(f"words per sentence of {README}: {mean_sentence(located):.1f} (at most {README_SENTENCE_WORDS})")
    return "\n".join(lines) + "\n"


def faults(located: list[Located]) -> list[str]:
    """One line for each banned occurrence without an exception, and for each rate that is too high."""
    allowed = exceptions()
    lines = []
    used = set()
    for pattern in PATTERNS:
        for one, around in occurrences(located, pattern) if pattern.banned else ():
            covering = {(path, text) for path, text in allowed if path == one.path and text in around}
            used |= covering
            if not covering:
                lines.append(f"{one.path}:{one.passage.line}: {pattern.name}: {around}")
    lines += [
        f"{EXCEPTIONS.relative_to(TREE)}: no occurrence matches '{path}: {text}'; remove the line"
        for path, text in sorted(allowed - used)
    ]
    found = rates(located)
    for area in HELD:
        for pattern in PATTERNS:
            rate = found.get((area, pattern.name), 0)
            if rate > pattern.at_most:
                lines.append(f"{area}: {pattern.name}: {rate:.2f} per 1,000 words, at most {pattern.at_most}")
    if (mean := mean_sentence(located)) > README_SENTENCE_WORDS:
        lines.append(f"{README}: {mean:.1f} words per sentence, at most {README_SENTENCE_WORDS}")
    return lines


def main() -> int:
    """Print the rates; with `--check` fail if one is too high or a banned word occurs."""
    parser = argparse.ArgumentParser(prog="python -m tools.prose", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="print banned words and rates that are too high, and fail")
    parser.add_argument("--list", metavar="PATTERN", help="print the occurrences of the patterns with this in the name")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="files or directories (default: all tracked files)")
    args = parser.parse_args()
    located = list(passages(args.paths))
    if args.check:
        lines = faults(located)
        sys.stderr.writelines(f"{line}\n" for line in lines)
        if lines:
            sys.stderr.write(
                "CONTRIBUTING.md has the rules; `python -m tools.prose --list PATTERN` prints occurrences\n"
            )
        return 1 if lines else 0
    if args.list is not None:
        for pattern in PATTERNS:
            if args.list in pattern.name:
                for one, around in occurrences(located, pattern):
                    sys.stdout.write(f"{one.path}:{one.passage.line}: {one.area}: {around}\n")
        return 0
    sys.stdout.write(table(located))
    return 0


if __name__ == "__main__":
    sys.exit(main())
