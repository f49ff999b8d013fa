"""The configuration's keys: what each means, its unit, its default, and what it may be."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from samepaged.config.problem import shown
from samepaged.config.quantities import Directory, Duration, File, Interval, Listen, PageSize, Seed, Size, address

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DEFAULT_GROUP",
    "Config",
    "ExportConfig",
    "GroupConfig",
    "GuestsConfig",
    "HashingConfig",
    "LibvirtConfig",
    "LogConfig",
    "LogLevel",
    "Mode",
    "Reader",
    "ScanConfig",
    "schema_keys",
]

DEFAULT_GROUP: Final = "default"
"""The group of guests that no configured group matches."""

Mode = Literal["auto", "snapshot", "precopy", "sliced", "live"]
Reader = Literal["auto", "process", "dump"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LONGEST_TEXT: Final = 1000


def _reasonable(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write a text")
    # No name or URI comes near it, and a pattern's cost grows with the square of its length.
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"has {len(text)} characters; use at most {_LONGEST_TEXT}")
    return text


def _not_empty(patterns: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic's own min_length counts items after validation: it would blame a list whose one item is bad twice.
    if not patterns:
        raise ValueError("is an empty list; write at least one pattern")
    return patterns


Text = Annotated[StrictStr, AfterValidator(_reasonable)]
Patterns = tuple[Text, ...]
SomePatterns = Annotated[Patterns, AfterValidator(_not_empty)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LibvirtConfig(_Section):
    """Where the guests are found."""

    uri: Text = "qemu:///system"
    """libvirt's connection URI. Default qemu:///system."""


class GuestsConfig(_Section):
    """Which guests are scanned. Patterns are the shell's (`*`, `?`, `[abc]`), and case counts."""

    include: SomePatterns = ("*",)
    """Names of domains to scan, as patterns. Default every domain."""

    exclude: Patterns = ()
    """Names of domains never to scan, as patterns, whatever `include` says. Default none."""

    def selects(self, name: str) -> bool:
        """Whether the domain `name` is to be scanned."""
        return _matches(name, self.include) and not _matches(name, self.exclude)


class GroupConfig(_Section):
    """Guests that may share memory with each other: a tenant, a project."""

    name: Text
    """The group's name, the value of the label `group`. Needed, and different from the other groups' names."""

    match: SomePatterns
    """Names of domains in the group, as patterns. Needed."""


def _distinct_names(value: Any, validate: ValidatorFunctionWrapHandler) -> tuple[GroupConfig, ...]:  # noqa: ANN401 - raw
    """Refuse a name's second use, together with (not instead of) what is wrong with the groups one by one."""
    wrong: list[InitErrorDetails] = []
    groups: tuple[GroupConfig, ...] = ()
    try:
        groups = validate(value)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            kind = PydanticCustomError(error["type"], "{message}", {**error.get("ctx", {}), "message": error["msg"]})
            wrong.append(InitErrorDetails(type=kind, loc=error["loc"], input=error["input"]))
    seen: set[str] = set()
    for index, group in enumerate(value if isinstance(value, list | tuple) else ()):
        name = group.get("name") if isinstance(group, dict) else getattr(group, "name", None)
        if not isinstance(name, str):
            continue
        if name in seen:
            message = f"{shown(name)} is the name of an earlier group; give each group a name of its own"
            kind = PydanticCustomError("value_error", "{error}", {"error": message})
            wrong.append(InitErrorDetails(type=kind, loc=(index, "name"), input=name))
        seen.add(name)
    if wrong:
        raise ValidationError.from_exception_data("groups", wrong)
    return groups


def _each_once(page_sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(page_sizes)) < len(page_sizes):
        raise ValueError("lists a page size twice; list each once")
    return page_sizes


class ScanConfig(_Section):
    """When and how guests are scanned, and what a scan may cost."""

    interval: Interval = 900.0
    """Seconds from the start of a scan of all guests to the start of the next. Default 15m, at least 1s."""

    jitter: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.1
    """How much of `interval` a scan may come earlier or later by chance: a ratio, 0 to 1. Default 0.1."""

    mode: Mode = "auto"
    """The consistency mode. Default auto: the most exact of snapshot, precopy and sliced that fits `max_pause`."""

    reader: Reader = "auto"
    """How memory is read. Default auto: process where the guest's memory layout is understood, else dump."""

    max_pause: Duration = 0.25
    """The longest a guest may stand still at a time, in seconds. Default 250ms."""

    max_duty: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.01
    """The share of wall time for which `sliced` may suspend a guest: a ratio above 0, to 1. Default 0.01."""

    threads: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    """Threads that hash. Default null: half the cores, at least 1; see `thread_count`."""

    memory_limit: Size = 2**30
    """Bytes that hashes kept for the next scan may take; the largest guests go first. Default 1GiB; 0 keeps none."""

    still_ksm: StrictBool = False
    """Whether KSM may be stopped for the seconds in which `precopy` relies on soft-dirty bits. Default false."""

    page_sizes: Annotated[tuple[PageSize, ...], AfterValidator(_each_once)] = ()
    """Further page sizes to report sharing for, in bytes: powers of two, 1KiB to 2MiB, each once. Default none."""

    verify_every: Annotated[StrictInt, Field(ge=0)] = 10
    """Every n-th scan of a guest reads a sample of the pages held to be unchanged. Default 10; 0 means never."""

    verify_pages: Annotated[StrictInt, Field(ge=1)] = 1024
    """How many pages such a sample has. Default 1024."""

    @property
    def thread_count(self) -> int:
        """The number of threads that hash: `threads`, or half the cores that this process may use."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // 2)


class HashingConfig(_Section):
    """How page contents become hashes."""

    seed: Seed = Field(default=None, repr=False)
    """The seed, 64 bits. Default null: made once and kept in `state_directory`. Hosts to be compared need the same."""


class ExportConfig(_Section):
    """What Prometheus gets, and where."""

    listen: Listen = "127.0.0.1:9953"
    """The address that serves metrics, host:port or [v6]:port; port 0 takes any free one. Default 127.0.0.1:9953."""

    web_config_file: File | None = None
    """TLS and passwords: a file in the exporter-toolkit's format, docs/web.md. An absolute path. Default null: none."""

    pairs: Annotated[StrictInt, Field(ge=0, le=1000)] = 20
    """How many pairs of guests, those that share most, become series. Default 20, 0 to 1000."""

    @property
    def address(self) -> tuple[str, int]:
        """Host (an IPv6 address without brackets) and port of `listen`."""
        return address(self.listen)


class LogConfig(_Section):
    """What is logged."""

    level: LogLevel = "info"
    """The least severe messages that are logged. Default info."""


class Config(_Section):
    """The whole configuration. `Config()` is the built-in defaults."""

    libvirt: LibvirtConfig = LibvirtConfig()
    """Where the guests are found."""

    guests: GuestsConfig = GuestsConfig()
    """Which guests are scanned."""

    groups: Annotated[tuple[GroupConfig, ...], WrapValidator(_distinct_names)] = ()
    """Groups of guests that may share with each other; the first that matches counts. Default none."""

    scan: ScanConfig = ScanConfig()
    """When and how guests are scanned."""

    hashing: HashingConfig = HashingConfig()
    """How page contents become hashes."""

    state_directory: Directory = Path("/var/lib/samepaged")
    """What outlives a reboot: the seed. An absolute path. Default /var/lib/samepaged."""

    runtime_directory: Directory = Path("/run/samepaged")
    """What does not: the journal of suspended guests. An absolute path. Default /run/samepaged."""

    export: ExportConfig = ExportConfig()
    """What Prometheus gets."""

    log: LogConfig = LogConfig()
    """What is logged."""

    def selects(self, name: str) -> bool:
        """Whether the domain `name` is to be scanned."""
        return self.guests.selects(name)

    def group_of(self, name: str) -> str:
        """The group of the domain `name`: the first that matches, or `DEFAULT_GROUP`."""
        return next((group.name for group in self.groups if _matches(name, group.match)), DEFAULT_GROUP)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def schema_keys(model: type[BaseModel] = Config, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of the schema as its path from the top, a section before its keys. A list adds no step."""
    for name, field in model.model_fields.items():
        path = (*above, name)
        yield path
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from schema_keys(part, path)
