"""YAML parser that returns plain values and their positions, with bounds on size and depth.

It accepts mappings, lists and scalars. A plain scalar is a text unless YAML 1.1 and 1.2 both define another type for
it: a guest may have the name `no`, `1:30` or `12e45`. Tags and aliases are refused: samepaged does not need them, and
nested aliases grow without bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from samepaged.errors import Fault
from samepaged.escape import printable

if TYPE_CHECKING:
    from yaml.error import Mark

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "Defect", "Document", "Path", "Place", "Problem", "Unreadable"]
__all__ += ["dotted", "read_document", "shown"]

Path = tuple[str | int, ...]
"""The path of a value in a document: keys of mappings and indices of lists, from the top."""

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 16
# A reload reads so many well within the watchdog's timeout (in about a second).
MAX_VALUES: Final = 20_000

_NULL: Final = re.compile(r"|~|null|Null|NULL")
_TRUE: Final = re.compile(r"true|True|TRUE")
_FALSE: Final = re.compile(r"false|False|FALSE")
# Without leading zeros, and with at most as many digits as a key needs: a longer number stays text, and its key refuses
# it.
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})|0x[0-9A-Fa-f]{1,39}", re.ASCII)
_FLOAT: Final = re.compile(r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?", re.ASCII)
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_YES: Final = re.compile(r"yes|Yes|YES|on|On|ON")
_NO: Final = re.compile(r"no|No|NO|off|Off|OFF")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_QUOTE: Final = "check the indentation, and put a value that holds any of :#[]{}*&!|>%@` in quotes"


_MAX_CHARACTERS: Final = 60
_YAML_WORDS: Final = {None: "null", True: "true", False: "false"}
# The seed of the hashes may be in any key by mistake.
_LONG_NUMBER: Final = re.compile(r"0x[0-9a-f]{6,}|[0-9]{10,}|[0-9a-f]{14,}", re.IGNORECASE)


class Defect(Enum):
    """Kinds of problems of a document, for callers that must not quote its values."""

    EMPTY = auto()
    NOT_YAML = auto()
    NOT_A_MAPPING = auto()
    TOO_LARGE = auto()
    TOO_DEEP = auto()
    ALIAS = auto()
    TAG = auto()
    DUPLICATE_KEY = auto()
    KEY_NOT_A_TEXT = auto()
    HALF_A_CHARACTER = auto()


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line and a column of a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem at a place of a document and its remedy; both may quote a value. `path` is empty if it concerns no key;
    `defect` is None if the problem is one of the schema.
    """

    place: Place
    path: Path
    problem: str
    remedy: str | None
    defect: Defect | None = None

    def described(self, name: str) -> Fault:
        """The problem of the file `name`, `FILE:LINE:COLUMN: key.path: problem`, on one line and without long numbers,
        because any of them may be the seed.
        """
        key = f"{dotted(self.path)}: " if self.path else ""
        problem = _LONG_NUMBER.sub("...", f"{key}{self.problem}")
        place = f"{printable(name)}:{self.place.line}:{self.place.column}"
        remedy = None if self.remedy is None else _LONG_NUMBER.sub("...", self.remedy)
        return Fault(f"{place}: {problem}", remedy)


class Unreadable(Exception):  # noqa: N818 - the caller turns its problem into a ConfigError
    """The text is not a document: `problem` has the reason."""

    def __init__(self, place: Place, defect: Defect, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = Problem(place, (), problem, remedy, defect)


@dataclass(frozen=True, slots=True)
class Document:
    """`data` is made of dict, list, str, int, float, bool and None; `keys` and `values` have the position of each part.

    `problems` are the errors of the document itself, and `refused` the paths without a value because of them.
    """

    data: object
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[Path] = field(default_factory=set)


class _RefusedNode(yaml.ScalarNode):
    """Placeholder for a node that is not accepted, with the reason."""

    def __init__(self, refusal: _Refusal, start: Mark, end: Mark) -> None:
        super().__init__("", "", start, end)
        self.refusal = refusal


_Refusal = tuple[Defect, str, str]


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
        refusal: _Refusal | None = None
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
            alias = shown(f"*{event.anchor}")
            refusal = (Defect.ALIAS, f"{alias} is an alias", "write the value itself, or a pattern in quotes")
            return _RefusedNode(refusal, start, end)
        if event.tag is not None:
            remedy = "remove it, or put a value that begins with ! in quotes"
            refusal = (Defect.TAG, f"the tag {shown(event.tag)} is not taken", remedy)
        event.anchor = None  # Nothing can refer to it.
        self._count += 1
        if self._count > MAX_VALUES:
            problem = f"holds more than {MAX_VALUES} keys and values"
            raise Unreadable(_place(start), Defect.TOO_LARGE, problem, "shorten it")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            problem = f"is nested more than {MAX_DEPTH} deep"
            raise Unreadable(_place(start), Defect.TOO_DEEP, problem, "remove some levels")
        node = Composer.compose_node(self, parent, index)
        self._depth -= 1
        return _RefusedNode(refusal, start, end) if refusal else node


def read_document(text: str | bytes, *, yes_and_no: bool = False) -> Document:
    """Read one YAML document (bytes are UTF-8). With `yes_and_no`, the plain words yes, no, on and off are booleans, as
    in YAML 1.1. Raises `Unreadable` if the text as a whole is not usable.
    """
    node = _compose(_decoded(text))
    if node is None:
        raise Unreadable(Place(1, 1), Defect.EMPTY, "is empty", "write {} for the defaults")
    document = Document(None)
    data = _plain(node, (), document, yes_and_no=yes_and_no)
    if not isinstance(data, dict) and () not in document.refused:
        place, remedy = _place(node.start_mark), "write lines of the form key: value"
        raise Unreadable(place, Defect.NOT_A_MAPPING, f"{shown(data)} is not a mapping", remedy)
    return Document(data, document.keys, document.values, document.problems, document.refused)


def _decoded(text: str | bytes) -> str:
    octets = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(octets) > MAX_BYTES:
        raise Unreadable(Place(1, 1), Defect.TOO_LARGE, f"is larger than {MAX_BYTES} bytes", "shorten it")
    if isinstance(text, str):
        return text
    try:
        # Without the byte order mark. (Not by the codec utf-8-sig: Python imports it late, and the web process cannot
        # read Python's files once it has given up its rights.)
        return text.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        octet = error.object[error.start]
        problem = f"the byte 0x{octet:02x} is not UTF-8"
        raise Unreadable(_end(before), Defect.NOT_YAML, problem, "save the file as UTF-8") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except ReaderError as error:
        problem = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise Unreadable(_end(text[: error.position]), Defect.NOT_YAML, problem, "remove it") from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        what = ", ".join(part for part in (error.context, error.problem) if part)
        problem = f"is not YAML: {printable(what)}"
        raise Unreadable(_place(mark), Defect.NOT_YAML, problem, _remedy(what)) from None
    except (ValueError, OverflowError):
        # PyYAML hands the digits of "\U........" and of %YAML to chr() and int() as they are.
        place, problem = _place(loader.get_mark()), "is not YAML: a number is out of range"
        raise Unreadable(place, Defect.NOT_YAML, problem, "correct it") from None


def _remedy(what: str) -> str:
    # PyYAML's errors do not have codes.
    if "alias" in what:
        return 'put a pattern in quotes, such as "*"'
    if r"'\t'" in what:
        return "indent with spaces"
    if "scanning a tag" in what:
        return "put a value that begins with ! in quotes"
    if "another document" in what:
        return "keep one document in a file"
    return _QUOTE


def _plain(node: yaml.Node, path: Path, document: Document, *, yes_and_no: bool) -> object:
    document.values[path] = _place(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), document, yes_and_no=yes_and_no) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.ScalarNode):
        return _mapping(node, path, document, yes_and_no=yes_and_no)
    if refusal := _refusal(node):
        document.problems.append(_problem(node, path, refusal))
        document.refused.add(path)
        return None
    return node.value if node.style else _scalar(node.value, yes_and_no=yes_and_no)


def _mapping(node: yaml.Node, path: Path, document: Document, *, yes_and_no: bool) -> dict[str, object]:
    data: dict[str, object] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            refusal = (Defect.KEY_NOT_A_TEXT, "has a key that is not a text", "write keys as plain words")
            document.problems.append(_problem(key, path, refusal))
        elif found := _refusal(key):
            document.problems.append(_problem(key, path, found))
        elif key.value in data:
            first = document.keys[*path, key.value].line
            refusal = (Defect.DUPLICATE_KEY, f"is a duplicate of the key in line {first}", "keep one of the two")
            document.problems.append(_problem(key, (*path, key.value), refusal))
        else:
            document.keys[*path, key.value] = _place(key.start_mark)
            data[key.value] = _plain(value, (*path, key.value), document, yes_and_no=yes_and_no)
    return data


def _refusal(node: yaml.ScalarNode) -> _Refusal | None:
    if isinstance(node, _RefusedNode):
        return node.refusal
    if _SURROGATE.search(node.value):
        remedy = "write \\U and eight digits for a character above U+FFFF"
        return Defect.HALF_A_CHARACTER, f"{shown(node.value)} holds half a character", remedy
    return None


def _problem(node: yaml.Node, path: Path, refusal: _Refusal) -> Problem:
    defect, problem, remedy = refusal
    return Problem(_place(node.start_mark), path, problem, remedy, defect)


def _scalar(text: str, *, yes_and_no: bool) -> object:
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if yes_and_no and (_YES.fullmatch(text) or _NO.fullmatch(text)):
        return _YES.fullmatch(text) is not None
    if _INT.fullmatch(text):
        return int(text, 16 if text.startswith("0x") else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _place(mark: Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _end(text: str) -> Place:
    lines = _LINE_BREAK.split(text)
    return Place(len(lines), len(lines[-1]) + 1)


def shown(value: object) -> str:
    """`value` as a message quotes it: one short line."""
    if isinstance(value, str | list):
        value = value[: _MAX_CHARACTERS + 1]
    text = _YAML_WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


def dotted(path: Path) -> str:
    """`path` in its usual notation: `groups[0].name`."""
    steps = []
    for step in path:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            plain = (
                step.replace("_", "a").replace("-", "a").isalnum()
                and step.isprintable()
                and len(step) <= _MAX_CHARACTERS
            )
            steps.append(f".{step if plain else shown(step)}")
    return "".join(steps).removeprefix(".")
