"""The web configuration file: from bytes to what is in force, or to one line that says what is wrong."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml
from pydantic import ValidationError

from samepaged.errors import ConfigError
from samepaged.web.config_schema import WebConfig
from samepaged.web.tls import Unusable, context

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = ["Identity", "LoadedConfig", "identity", "load", "parse"]

LARGEST: Final = 1 << 20
DEEPEST: Final = 16
# By pydantic's type of error. No text repeats what was written: it may be a key or a password's hash.
TEXTS: Final = {
    "missing": "is missing; add it",
    "model_type": "must be a mapping; write its keys below it, or leave it out",
    "dict_type": "must be a mapping; write its keys below it, or leave it out",
    "tuple_type": "must be a list; write it in [ ], or a line beginning with - for each item",
    "string_type": "must be a text; put it in quotes",
    "bool_type": "must be true or false; write one of the two",
    "int_type": "must be a whole number; write digits without quotes",
    "greater_than_equal": "is too small; use at least {ge}",
    "less_than_equal": "is too large; use at most {le}",
    "value_error": "{error}",
}


Identity = tuple[int, ...] | None
"""What differs when a file has changed, or when another has taken its place; None for one that cannot be read."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that can be used: its certificates have been read. `tls` is None for plain HTTP."""

    config: WebConfig
    tls: ssl.SSLContext | None


class _Loader(yaml.SafeLoader):
    """Refuses what the toolkit's strict decoder refuses, too: a key that is there twice; and aliases, and depth."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise Unusable("has an alias (*name); write the value where it belongs")
        self._depth += 1
        if self._depth > DEEPEST:
            raise Unusable("is nested too deeply; see docs/operate/web.md for what it may have")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as in yaml
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise Unusable("has a key twice in one mapping; remove one of the two")
        return super().construct_mapping(node, deep)


def load(path: Path, seen: dict[Path, Identity]) -> LoadedConfig:
    """Read the file `path` and those that it names, and note in `seen` which files these were. Raises ConfigError."""
    try:
        config = parse(_read(path, seen))
        return LoadedConfig(config, _encryption(config, path.parent, seen))
    except Unusable as unusable:
        raise ConfigError(_one_line(f"{path}: {unusable}")) from None


def parse(text: bytes) -> WebConfig:
    """The configuration in `text`, without a look at the files that it names. Raises Unusable."""
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a child of the safe loader
    # The last ones are what PyYAML makes of a number out of range, and of a tag without its value: !!timestamp x.
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError, AttributeError, LookupError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise Unusable(f"{where}is not YAML; correct it") from None
    try:
        return WebConfig.model_validate({} if data is None else data)
    except ValidationError as invalid:
        raise Unusable(_problem(invalid.errors(include_url=False, include_input=False)[0])) from None


def identity(path: Path) -> Identity:
    """Of the file that is there now."""
    try:
        return _identity(os.stat(path))  # noqa: PTH116 - a name that no file can have is no file
    except (OSError, ValueError):
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, seen: dict[Path, Identity]) -> bytes:
    """A regular file of bounded size. Raises Unusable."""
    seen[path] = identity(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Unusable("is no regular file; name one")
            seen[path] = _identity(found)
            octets = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "that is no name of a file"
        raise Unusable(f"cannot be read: {why}; correct its name, or let the user of the web process read it") from None
    if len(octets) > LARGEST:
        raise Unusable(f"is larger than {LARGEST} bytes; is it the right file?")
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
            raise Unusable(f"tls_server_config.{name}_file: {directory / file} {unusable}") from None
    return context(tls, **parts)


def _problem(error: ErrorDetails) -> str:
    path = ".".join(str(step) for step in error["loc"] if isinstance(step, str))
    template = TEXTS.get(error["type"])
    if error["type"] == "extra_forbidden":
        text = "unknown key; remove it, or see docs/operate/web.md for its right name"
    elif template is None:
        text = f"{error['msg']}; correct it"
    else:
        text = template.format_map(error.get("ctx", {}))
    return f"{path}: {text}" if path else text


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
