"""YAML text into plain values, with the place of each: bounded in size and depth, and without surprises.

Of YAML this takes mappings, lists and scalars. A plain scalar is a text unless YAML 1.1 and 1.2 both hold it to be
something else: guests may be called `no`, `1:30` or `12e45`. Tags and aliases are refused: nothing here needs them, and
aliases of aliases grow without bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from samepaged.config.problem import Path, Position, Problem, one_line, quote_value

if TYPE_CHECKING:
    from yaml.error import Mark

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "Document", "Unreadable", "read_document"]

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 16
# What a reload can read well within the watchdog's patience (about a second).
MAX_VALUES: Final = 20_000

_NULL: Final = re.compile(r"|~|null|Null|NULL")
_TRUE: Final = re.compile(r"true|True|TRUE")
_FALSE: Final = re.compile(r"false|False|FALSE")
# No leading zeros, and no more digits than any key needs: what is longer stays text, and its key refuses it.
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})|0x[0-9A-Fa-f]{1,39}", re.ASCII)
_FLOAT: Final = re.compile(r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?", re.ASCII)
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_QUOTE: Final = "check the indentation, and put a value that holds any of :#[]{}*&!|>%@` in quotes"


class Unreadable(Exception):  # noqa: N818 - not an error that users see: it carries the problem that they do
    """The text is no document at all: `problem` says why."""

    def __init__(self, place: Position, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(place, (), text)


@dataclass(frozen=True, slots=True)
class Document:
    """`data` is made of dict, list, str, int, float, bool and None; `keys` and `values` say where each part is.

    `problems` are what the document itself has wrong, and `refused` the paths whose values are missing for that.
    """

    data: object
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[Path] = field(default_factory=set)


class _RefusedNode(yaml.ScalarNode):
    """Stands for a node that is not taken; `value` is the reason."""


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's own pipeline up to the nodes, with bounds. It constructs nothing."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        start, end = event.start_mark, event.end_mark
        reason = None
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
            reason = f"{quote_value(f'*{event.anchor}')} is an alias; write the value itself, or a pattern in quotes"
            return _RefusedNode("", reason, start, end)
        if event.tag is not None:
            reason = (
                f"the tag {quote_value(event.tag)} is not taken; remove it, or put a value that begins with ! in quotes"
            )
        event.anchor = None  # Nothing can refer to it.
        self._count += 1
        if self._count > MAX_VALUES:
            raise Unreadable(_place(start), f"holds more than {MAX_VALUES} keys and values; shorten it")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(_place(start), f"is nested more than {MAX_DEPTH} deep; remove some levels")
        node = Composer.compose_node(self, parent, index)
        self._depth -= 1
        return _RefusedNode("", reason, start, end) if reason else node


def read_document(text: str | bytes) -> Document:
    """Read one YAML document (bytes are UTF-8). Raises `Unreadable` where nothing can be said of its parts."""
    node = _compose(_decoded(text))
    if node is None:
        raise Unreadable(Position(1, 1), "is empty; write {} where the defaults are meant")
    document = Document(None)
    data = _plain(node, (), document)
    if not isinstance(data, dict) and () not in document.refused:
        raise Unreadable(
            _place(node.start_mark), f"{quote_value(data)} is not a mapping; write lines of the form key: value"
        )
    return Document(data, document.keys, document.values, document.problems, document.refused)


def _decoded(text: str | bytes) -> str:
    octets = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(octets) > MAX_BYTES:
        raise Unreadable(Position(1, 1), f"is larger than {MAX_BYTES} bytes; shorten it")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec may have cut off a byte order mark before it counted.
        before = error.object[: error.start].decode("utf-8", "replace")
        octet = error.object[error.start]
        raise Unreadable(_end(before), f"the byte 0x{octet:02x} is not UTF-8; save the file as UTF-8") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except ReaderError as error:
        raise Unreadable(
            _end(text[: error.position]), f"the character U+{ord(text[error.position]):04X} is not allowed; remove it"
        ) from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(_place(mark), f"is not YAML: {one_line(what)}; {_remedy(what)}") from None
    except (ValueError, OverflowError):
        # PyYAML hands the digits of "\U........" and of %YAML to chr() and int() as they are.
        raise Unreadable(_place(loader.get_mark()), "is not YAML: a number is out of range; correct it") from None


def _remedy(what: str) -> str:
    if "alias" in what:
        return 'put a pattern in quotes, such as "*"'
    if r"'\t'" in what:
        return "indent with spaces"
    if "scanning a tag" in what:
        return "put a value that begins with ! in quotes"
    if "another document" in what:
        return "keep one document in a file"
    return _QUOTE


def _plain(node: yaml.Node, path: Path, document: Document) -> object:
    document.values[path] = _place(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), document) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.ScalarNode):
        return _mapping(node, path, document)
    if reason := _refusal(node):
        document.problems.append(Problem(_place(node.start_mark), path, reason))
        document.refused.add(path)
        return None
    return node.value if node.style else _scalar(node.value)


def _mapping(node: yaml.Node, path: Path, document: Document) -> dict[str, object]:
    data: dict[str, object] = {}
    for key, value in node.value:
        place = _place(key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            document.problems.append(Problem(place, path, "has a key that is not a text; write keys as plain words"))
        elif reason := _refusal(key):
            document.problems.append(Problem(place, path, reason))
        elif key.value in data:
            first = document.keys[*path, key.value].line
            text = f"is a duplicate of the key in line {first}; keep one of the two"
            document.problems.append(Problem(place, (*path, key.value), text))
        else:
            document.keys[*path, key.value] = place
            data[key.value] = _plain(value, (*path, key.value), document)
    return data


def _refusal(node: yaml.ScalarNode) -> str | None:
    if isinstance(node, _RefusedNode):
        return str(node.value)
    if _SURROGATE.search(node.value):
        return (
            f"{quote_value(node.value)} holds half a character; write \\U and eight digits for a character above U+FFFF"
        )
    return None


def _scalar(text: str) -> object:
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text, 16 if text.startswith("0x") else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _place(mark: Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _end(text: str) -> Position:
    lines = _LINE_BREAK.split(text)
    return Position(len(lines), len(lines[-1]) + 1)
