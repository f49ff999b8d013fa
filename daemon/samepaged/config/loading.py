"""From a file to a `Config`, or to a line for each thing that is wrong with it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from samepaged.config.problem import Path, Position, Problem, dotted_path, one_line, quote_value
from samepaged.config.schema import Config, schema_keys
from samepaged.config.yaml_document import MAX_BYTES, Document, Unreadable, read_document
from samepaged.errors import ConfigError
from samepaged.os_errors import remedy

if TYPE_CHECKING:
    import pathlib

    from pydantic_core import ErrorDetails

__all__ = ["load", "parse"]

# By pydantic's type of error. {value} is what was written, the other names are pydantic's context of that type.
_TEXTS: Final = {
    "missing": "is missing; add it",
    "model_type": "must be a mapping, not {value}; write its keys below it, or leave it out",
    "tuple_type": "must be a list, not {value}; write it in [ ], or a line beginning with - for each item",
    "string_type": "must be a text, not {value}; put it in quotes",
    "bool_type": "must be true or false, not {value}; write one of the two",
    "int_type": "must be a whole number, not {value}; write digits without quotes",
    "float_type": "must be a number, not {value}; write digits without quotes",
    "literal_error": "{value} is not known; use {expected}",
    "greater_than": "{value} is too small; use a number above {gt}",
    "greater_than_equal": "{value} is too small; use at least {ge}",
    "less_than_equal": "{value} is too large; use at most {le}",
    "value_error": "{error}",
}


def load(path: pathlib.Path | None) -> Config:
    """The configuration in the file `path`, or the built-in defaults for None. Raises `ConfigError`."""
    if path is None:
        return Config()
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {one_line(error.strerror or str(error))}; {_remedy(error)}"
    except ValueError as error:  # a name with a NUL in it
        problem = f"cannot be read: {one_line(str(error))}; correct its name"
    else:
        return parse(octets, str(path))
    raise ConfigError(Problem(Position(1, 1), (), problem).describe(str(path)))


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "correct its name, or create it"
    if isinstance(error, PermissionError):
        return "run as a user who may read it, or change its permissions"
    return remedy(error, "name a readable file")


def parse(text: str | bytes, name: str) -> Config:
    """The configuration in `text`; `name` is what its problems call the file. Raises `ConfigError` with all of them."""
    try:
        document = read_document(text)
    except Unreadable as unreadable:
        raise ConfigError(unreadable.problem.describe(name)) from None
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
        problems.sort(key=lambda problem: problem.position)
        raise ConfigError(*(problem.describe(name) for problem in problems))
    return config


def _is_reported(path: Path, document: Document) -> bool:
    """Whether the document's own problems include why there is nothing good at `path`."""
    return any(path[:length] in document.refused for length in range(len(path) + 1))


def _problem(error: ErrorDetails, document: Document) -> Problem:
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        return Problem(document.keys[path], path, _unknown(path))
    where = path
    while where not in document.values:  # a key that is missing has the place of what it is missing in
        where = where[:-1]
    template = _TEXTS.get(error["type"])
    if template is None:
        text = f"{one_line(error['msg'])}; correct {quote_value(error['input'])}"
    else:
        text = template.format_map({**error.get("ctx", {}), "value": quote_value(error["input"])})
    return Problem(document.values[where], path, text)


def _unknown(path: Path) -> str:
    section = tuple(step for step in path[:-1] if isinstance(step, str))
    known = {key[-1]: key for key in schema_keys() if key[:-1] == section}
    wrong = str(path[-1])
    if close := get_close_matches(wrong, known, n=1):
        return f"unknown key; did you mean {close[0]}?"
    if elsewhere := [key for key in schema_keys() if key[-1] == wrong]:
        return f"unknown key here; did you mean {' or '.join(map(dotted_path, elsewhere))}?"
    return f"unknown key; remove it, or use one of {', '.join(known)}"
