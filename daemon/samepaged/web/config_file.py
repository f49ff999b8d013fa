"""Loading of the web configuration file, with errors of one line."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from samepaged.errors import ConfigError, Fault, InvalidValueError
from samepaged.escape import printable
from samepaged.web.config_schema import WebConfig
from samepaged.web.tls import Unusable, context
from samepaged.yaml_document import MAX_BYTES, Defect, Problem, Unreadable, read_document

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = ["Identity", "LoadedConfig", "identity", "load", "parse"]

# These texts do not quote values of the file, because a value may be a key or the hash of a password.
DEFECTS: Final = {
    Defect.NOT_YAML: ("is not YAML", "correct it"),
    Defect.NOT_A_MAPPING: ("must be a mapping", "write lines of the form key: value"),
    Defect.TOO_LARGE: ("has too many keys and values", "see docs/operate/web.md for the valid keys"),
    Defect.TOO_DEEP: ("is nested too deeply", "see docs/operate/web.md for the valid keys"),
    Defect.ALIAS: ("has an alias (*name)", "replace it with the value"),
    Defect.TAG: ("has a tag (!name)", "remove it"),
    Defect.DUPLICATE_KEY: ("has a key twice in one mapping", "remove one of them"),
    Defect.KEY_NOT_A_TEXT: ("has a key that is not a string", "write keys as plain words"),
    Defect.HALF_A_CHARACTER: (
        "has half of a surrogate pair",
        r"write \U and eight digits for a character above U+FFFF",
    ),
}
# By pydantic's type of error. These do not quote values either.
TEXTS: Final = {
    "missing": ("is missing", "add it"),
    "model_type": ("must be a mapping", "write its keys below it, or remove it"),
    "dict_type": ("must be a mapping", "write its keys below it, or remove it"),
    "tuple_type": ("must be a list", "write it in [ ], or a line beginning with - for each item"),
    "string_type": ("must be a string", "put it in quotes"),
    "bool_type": ("must be true or false", "use true or false"),
    "int_type": ("must be an integer", "write digits without quotes"),
    "greater_than_equal": ("is too small", "use at least {ge}"),
    "less_than_equal": ("is too large", "use at most {le}"),
    "extra_forbidden": ("unknown key", "remove it, or see docs/operate/web.md for the valid keys"),
}


Identity = tuple[int, ...] | None
"""Attributes of a file that change when it is modified or replaced; None for an unreadable file."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A valid configuration, with loaded certificates. `tls` is None for plain HTTP."""

    config: WebConfig
    tls: ssl.SSLContext | None


def load(path: Path, seen: dict[Path, Identity]) -> LoadedConfig:
    """Read the file `path` and the files that it names, and record their identities in `seen`. Raises ConfigError."""
    try:
        config = parse(_read(path, seen))
        return LoadedConfig(config, _encryption(config, path.parent, seen))
    except Unusable as unusable:
        problem = printable(f"{path}: {unusable.problem}")
        raise ConfigError(Fault(problem, unusable.remedy)) from None


def parse(text: bytes) -> WebConfig:
    """Return the configuration in `text`, without reading the files that it names. Raises Unusable."""
    try:
        document = read_document(text, yes_and_no=True)
    except Unreadable as unreadable:
        if unreadable.problem.defect is Defect.EMPTY:
            return WebConfig()
        raise _unusable(unreadable.problem) from None
    if document.problems:
        raise _unusable(document.problems[0])
    try:
        return WebConfig.model_validate(document.data)
    except ValidationError as invalid:
        raise _invalid(invalid.errors(include_url=False, include_input=False)[0]) from None


def identity(path: Path) -> Identity:
    """Return the identity of the current file at `path`."""
    try:
        return _identity(os.stat(path))  # noqa: PTH116 - an invalid file name counts as a missing file
    except (OSError, ValueError):
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, seen: dict[Path, Identity]) -> bytes:
    """Read a regular file of bounded size. Raises Unusable."""
    seen[path] = identity(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Unusable("is not a regular file", "use a regular file")
            seen[path] = _identity(found)
            octets = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "invalid file name"
        raise Unusable(
            f"cannot be read: {reason}", "correct its name, or make it readable for the user of the web process"
        ) from None
    if len(octets) > MAX_BYTES:
        raise Unusable(f"is larger than {MAX_BYTES} bytes", "check the file name")
    return octets


def _encryption(config: WebConfig, directory: Path, seen: dict[Path, Identity]) -> ssl.SSLContext | None:
    tls = config.tls_server_config
    if tls is None:
        return None
    parts = {}
    for name in ("cert", "key", "client_ca"):
        file, inline = getattr(tls, f"{name}_file"), getattr(tls, name)
        try:
            parts[name] = _read(directory / file, seen) if file else inline.encode()
        except Unusable as unusable:
            problem = f"tls_server_config.{name}_file: {directory / file} {unusable.problem}"
            raise Unusable(problem, unusable.remedy) from None
    return context(tls, **parts)


def _unusable(problem: Problem) -> Unusable:
    if problem.defect is None:
        return Unusable(problem.problem, problem.remedy)
    text, remedy = DEFECTS[problem.defect]
    return Unusable(f"line {problem.place.line}: {text}", remedy)


def _invalid(error: ErrorDetails) -> Unusable:
    path = ".".join(str(step) for step in error["loc"] if isinstance(step, str))
    context = error.get("ctx", {})
    reason, texts = context.get("error"), TEXTS.get(error["type"])
    if isinstance(reason, InvalidValueError):
        problem, remedy = reason.problem, reason.remedy
    elif texts is not None:
        problem, remedy = (text.format_map(context) for text in texts)
    else:
        problem, remedy = error["msg"], "correct it"
    return Unusable(f"{path}: {problem}" if path else problem, remedy)
