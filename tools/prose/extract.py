"""The prose of a file: text without code blocks, inline code, addresses and markup."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Messages shorter than this are keys, names and formats.
MESSAGE_WORDS: Final = 3

FENCE: Final = re.compile(r"^ *(```|~~~)")
INLINE_CODE: Final = re.compile(r"(`+).+?\1", re.DOTALL)
LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
ADDRESS: Final = re.compile(r"<?https?://[^\s>)]+>?")
COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
HEADING: Final = re.compile(r"#+ ")
ITEM: Final = re.compile(r" *(?:[-*]|\d+\.) ")
TABLE_RULE: Final = re.compile(r"\|[-:| ]+$")


@dataclass(frozen=True)
class Passage:
    """Consecutive prose, from line `line` (the first is 1) of its file."""

    line: int
    text: str
    # Only these passages of Markdown have sentences; the others are headings and cells of tables.
    sentences: bool = True


def plain(text: str) -> str:
    """Return the text without inline code, URLs and targets of links. Inline code becomes one word, like a noun."""
    text = LINK.sub(r"\1", INLINE_CODE.sub("code", text))
    return ADDRESS.sub("address", text)


def markdown(text: str) -> list[Passage]:
    """Paragraphs, list items, headings and table rows of a Markdown file."""
    text = COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
    passages: list[Passage] = []
    lines: list[str] = []
    start = 0
    fenced = False

    def end(*, sentences: bool = True) -> None:
        if lines:
            passages.append(Passage(start, plain(" ".join(lines)), sentences))
            lines.clear()

    in_list = False
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if FENCE.match(line):
            fenced = not fenced
            end()
            continue
        stripped = line.strip()
        if fenced or not stripped or TABLE_RULE.match(stripped):
            end()
            continue
        in_list = bool(ITEM.match(line)) or (in_list and line.startswith(" "))
        if line.startswith("    ") and not lines and not in_list:
            continue
        if HEADING.match(line) or stripped.startswith("|"):
            end()
            start = number
            lines.append(stripped.lstrip("# ").replace("|", " | "))
            end(sentences=False)
            continue
        if ITEM.match(line):
            end()
            stripped = ITEM.sub("", line, count=1)
        if not lines:
            start = number
        lines.append(stripped)
    return passages


def manual(text: str) -> list[Passage]:
    """Paragraphs of a manual page's source, without macros and requests."""
    passages = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith((".", "'")):
            passages.append(Passage(number, re.sub(r"\\f[BIRP]|\\", "", line)))
    return passages


def _docstring_nodes(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def docstrings(text: str) -> list[Passage]:
    """The docstrings of a Python module."""
    return [Passage(node.lineno, plain(str(node.value))) for node in _docstring_nodes(ast.parse(text))]


def messages(text: str) -> list[Passage]:
    """The other strings of a Python module with at least `MESSAGE_WORDS` words."""
    tree = ast.parse(text)
    skipped = {id(node) for node in _docstring_nodes(tree)}
    passages = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            words = plain(node.value)
            if len(re.findall(r"[A-Za-z]{2,}", words)) >= MESSAGE_WORDS:
                passages.append(Passage(node.lineno, words))
    return passages


def comments(text: str) -> list[Passage]:
    """The comments of a Python module. Consecutive lines are one passage."""
    passages: list[Passage] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or token.string.startswith("#!"):
            continue
        words = token.string.lstrip("#: ").split("noqa")[0].split("type: ignore")[0]
        row = token.start[0]
        if passages and row == last + 1:
            passages[-1] = Passage(passages[-1].line, f"{passages[-1].text} {words}")
        else:
            passages.append(Passage(row, words))
        last = row
    return [Passage(one.line, plain(one.text)) for one in passages]
