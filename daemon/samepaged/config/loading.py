"""Loads a file into a `Config`, or reports each error in the file in one line."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from samepaged import os_errors
from samepaged.config.schema import Config, schema_keys
from samepaged.errors import ConfigError, InvalidValueError
from samepaged.escape import printable
from samepaged.yaml_document import MAX_BYTES, Document, Path, Place, Problem, Unreadable, dotted, read_document, shown

if TYPE_CHECKING:
    import pathlib

    from pydantic_core import ErrorDetails

__all__ = ["load", "parse", "place_of", "read_file"]

# By pydantic's type of error. {value} is the value in the file; the other names are pydantic's context of that type.
_TEXTS: Final = {
    "missing": ("is missing", "add it"),
    "model_type": ("must be a mapping, not {value}", "write its keys below it, or leave it out"),
    "tuple_type": ("must be a list, not {value}", "write it in [ ], or a line beginning with - for each item"),
    "string_type": ("must be a text, not {value}", "put it in quotes"),
    "bool_type": ("must be true or false, not {value}", "write one of the two"),
    "int_type": ("must be a whole number, not {value}", "write digits without quotes"),
    "float_type": ("must be a number, not {value}", "write digits without quotes"),
    "literal_error": ("{value} is not a valid value", "use {expected}"),
    "greater_than": ("{value} is too small", "use a number above {gt}"),
    "greater_than_equal": ("{value} is too small", "use at least {ge}"),
    "less_than_equal": ("{value} is too large", "use at most {le}"),
}


def load(path: pathlib.Path | None) -> Config:
    """Load the configuration from the file `path`, or the built-in defaults for None. Raises `ConfigError`."""
    return Config() if path is None else parse(read_file(path), str(path))


def read_file(path: pathlib.Path) -> bytes:
    """Read the bytes of a YAML file, at most one more than `read_document` accepts. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        why, remedy = error.strerror or str(error), _remedy(error)
    except ValueError as error:  # a name with a NUL in it
        why, remedy = str(error), "correct its name"
    problem = Problem(Place(1, 1), (), f"cannot be read: {printable(why)}", remedy)
    raise ConfigError(problem.described(str(path)))


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "correct its name, or create it"
    if isinstance(error, PermissionError):
        return "run as a user with permission to read it, or change its permissions"
    return os_errors.remedy(error, "name a readable file")


def parse(text: str | bytes, name: str) -> Config:
    """Parse the configuration in `text`. `name` is its name in messages. Raises `ConfigError` with all problems."""
    try:
        document = read_document(text)
    except Unreadable as unreadable:
        raise ConfigError(unreadable.problem.described(name)) from None
    problems = list(document.problems)
    try:
        config = Config.model_validate(document.data)
    except ValidationError as invalid:
        problems += [
            _problem(error, document)
            for error in invalid.errors(include_url=False)
            if not _is_reported(error["loc"], document)
        ]
    if problems:
        problems.sort(key=lambda problem: problem.place)
        raise ConfigError(*(problem.described(name) for problem in problems))
    return config


def _is_reported(path: Path, document: Document) -> bool:
    """Whether the document's own problems explain the missing value at `path`."""
    return any(path[:length] in document.refused for length in range(len(path) + 1))


def _problem(error: ErrorDetails, document: Document) -> Problem:
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        return Problem(document.keys[path], path, *_unknown(path))
    context, value = error.get("ctx", {}), shown(error["input"])
    reason, texts = context.get("error"), _TEXTS.get(error["type"])
    if isinstance(reason, InvalidValueError):
        problem, remedy = reason.problem, reason.remedy
    elif texts is not None:
        problem, remedy = (text.format_map({**context, "value": value}) for text in texts)
    else:
        problem, remedy = printable(error["msg"]), f"correct {value}"
    return Problem(place_of(path, document), path, problem, remedy)


def place_of(path: Path, document: Document) -> Place:
    """The place of a value or, for a missing key, of the mapping without it."""
    while path not in document.values:
        path = path[:-1]
    return document.values[path]


def _unknown(path: Path) -> tuple[str, str]:
    """The problem and the remedy of an unknown key."""
    section = tuple(step for step in path[:-1] if isinstance(step, str))
    known = {key[-1]: key for key in schema_keys() if key[:-1] == section}
    wrong = str(path[-1])
    if close := get_close_matches(wrong, known, n=1):
        return "unknown key", f"did you mean {close[0]}?"
    if elsewhere := [key for key in schema_keys() if key[-1] == wrong]:
        return "unknown key here", f"did you mean {' or '.join(map(dotted, elsewhere))}?"
    return "unknown key", f"remove it, or use one of {', '.join(known)}"
