"""The configuration's keys: what each means, its unit, its default, and what it may be."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt, ValidationInfo, field_validator

from samepaged.config.groups import DEFAULT_GROUP, GroupConfig, GroupingConfig, Groups, MetadataSource
from samepaged.config.quantities import (
    Directory,
    Drift,
    Duration,
    File,
    Interval,
    Listen,
    PageSize,
    Seed,
    Size,
    address,
)
from samepaged.config.section import Patterns, Section, SomePatterns, Text, matches
from samepaged.errors import InvalidValueError
from samepaged.yaml_document import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "DEFAULT_GROUP",
    "Config",
    "ExportConfig",
    "GroupConfig",
    "GroupingConfig",
    "GuestsConfig",
    "HashingConfig",
    "LibvirtConfig",
    "LogConfig",
    "LogLevel",
    "Macvtap",
    "MetadataSource",
    "Mode",
    "Reader",
    "ScanConfig",
    "SourcesConfig",
    "SyncClock",
    "TracesConfig",
    "schema_keys",
]

Mode = Literal["auto", "snapshot", "precopy", "sliced", "live"]
Reader = Literal["auto", "process", "dump"]
SyncClock = Literal["none", "agent"]
Macvtap = Literal["skip", "allow", "allow_passthrough"]
LogLevel = Literal["debug", "info", "warning", "error"]


class LibvirtConfig(Section):
    """Where the guests are found."""

    uri: Text = "qemu:///system"
    """libvirt's connection URI. Default qemu:///system."""


class GuestsConfig(Section):
    """Which guests are scanned. Patterns are the shell's (`*`, `?`, `[abc]`), and case counts."""

    include: SomePatterns = ("*",)
    """Names of domains to scan, as patterns. Default every domain."""

    exclude: Patterns = ()
    """Names of domains never to scan, as patterns, whatever `include` says. Default none."""

    def selects(self, name: str) -> bool:
        """Whether the domain `name` is to be scanned."""
        return matches(name, self.include) and not matches(name, self.exclude)


def _each_once(page_sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(page_sizes)) < len(page_sizes):
        raise InvalidValueError("lists a page size twice", "list each once")
    return page_sizes


class ScanConfig(Section):
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

    max_drift: Drift = 0.0005
    """How far a guest's scans may set its clock back within any hour: a ratio, or ppm. Default 500ppm; 1: no bound."""

    sync_clock: SyncClock = "none"
    """How a guest's clock is set right after a scan: not at all, or by the guest agent. Default none."""

    sync_clock_above: Duration = 0.1
    """Seconds for which a scan has to suspend a guest before its clock is set right. Default 100ms."""

    threads: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    """Threads that hash. Default null: half the cores, at least 1; see `thread_count`."""

    memory_limit: Size = 2**30
    """Bytes that hashes kept for the next scan may take; the largest guests go first. Default 1GiB; 0 keeps none."""

    still_ksm: StrictBool = False
    """Whether KSM may be stopped for the seconds in which `precopy` relies on soft-dirty bits. Default false."""

    macvtap: Macvtap = "skip"
    """Whether guests with macvtap interfaces may be suspended, though libvirt then sets their links down: skip (no),
    allow (unless an interface is in mode passthrough), allow_passthrough (yes). Default skip.
    """

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


class HashingConfig(Section):
    """How page contents become hashes."""

    seed: Seed = Field(default=None, repr=False)
    """The seed, 64 bits. Default null: made once and kept in `state_directory`. Hosts to be compared need the same."""


class TracesConfig(Section):
    """Page-hash traces: whether each scan leaves one of each guest, and for how long they stay."""

    enabled: StrictBool = False
    """Whether each scan leaves a trace of each guest. Default false."""

    directory: Directory = Path("/var/lib/samepaged/traces")
    """Where they are. An absolute path. Default /var/lib/samepaged/traces."""

    host: Text | None = None
    """What this host is called in them. Default null: its host name."""

    max_age: Duration = 30 * 86_400.0
    """Seconds for which a trace stays. Default 30d."""

    max_bytes: Size = 10 * 2**30
    """Bytes that the traces may take; the oldest go first. Default 10GiB."""

    @property
    def host_name(self) -> str:
        """`host`, or what this machine is called."""
        return self.host or platform.node() or "localhost"


class SourcesConfig(Section):
    """Whose the pages are that are shared, as the guests' own kernels say (docs/analysis/attribution.md)."""

    enabled: StrictBool = False
    """Whether it is asked at all. Default false."""

    every: Annotated[StrictInt, Field(ge=1)] = 10
    """Every n-th scan of a guest asks, its first among them. Default 10."""

    names: StrictBool = False
    """Whether names of processes and files in the guests are kept, or only kinds of memory. Default false."""

    name_labels: StrictBool = False
    """Whether these names become labels of metrics, too; `names` has to be true for it. Default false."""

    top: Annotated[StrictInt, Field(ge=1, le=100)] = 10
    """How many kinds of each guest become series, and where `name_labels` is set, processes and files. Default 10."""

    memory_limit: Size = 2**30
    """Bytes of a guest that may be copied for it; needed is a fortieth of the guest's memory. Default 1GiB."""

    time_limit: Duration = 30.0
    """Seconds after which the process that reads the copy is given up, before and after the pause. Default 30s."""

    seccomp: StrictBool = True
    """Whether that process must be under a filter of system calls, which takes libseccomp. Default true."""

    btf_directory: Directory | None = None
    """Where types of kernels without their own are: files BUILD-ID.btf. An absolute path. Default null: nowhere."""

    @field_validator("name_labels")
    @classmethod
    def _names_are_known(cls, labels: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic hands it so
        if labels and not info.data.get("names"):
            raise InvalidValueError("there are no names to be labels: sources.names is false", "set it, too")
        return labels


class ExportConfig(Section):
    """What Prometheus gets, and where."""

    listen: Listen | None = "127.0.0.1:9953"
    """The address that serves metrics, host:port or [v6]:port; port 0 takes any free one. Default 127.0.0.1:9953; null
    serves none.
    """

    textfile: File | None = None
    """A file to write the metrics into after each scan, for node_exporter's collector `textfile`: an absolute path
    whose name ends with .prom. Default null: none.
    """

    web_config_file: File | None = None
    """TLS and passwords, in the exporter-toolkit's format (docs/operate/web.md), an absolute path. Default null."""

    pairs: Annotated[StrictInt, Field(ge=0, le=1000)] = 20
    """How many pairs of guests, those that share most, become series. Default 20, 0 to 1000."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (an IPv6 address without brackets) and port of `listen`; None where nothing is served."""
        return None if self.listen is None else address(self.listen)

    @field_validator("textfile")
    @classmethod
    def _collected(cls, path: Path | None) -> Path | None:
        # node_exporter's collector looks at no other files.
        if path is not None and path.suffix != ".prom":
            raise InvalidValueError(
                f"{shown(str(path))} is not collected by node_exporter", "use a name that ends with .prom"
            )
        return path


class LogConfig(Section):
    """What is logged."""

    level: LogLevel = "info"
    """The least severe messages that are logged. Default info."""


class Config(Section):
    """The whole configuration. `Config()` is the built-in defaults."""

    libvirt: LibvirtConfig = LibvirtConfig()
    """Where the guests are found."""

    guests: GuestsConfig = GuestsConfig()
    """Which guests are scanned."""

    groups: Groups = ()
    """Groups of guests that may share with each other; the first that matches counts. Default none."""

    grouping: GroupingConfig = GroupingConfig()
    """Where the group of other guests comes from."""

    scan: ScanConfig = ScanConfig()
    """When and how guests are scanned."""

    hashing: HashingConfig = HashingConfig()
    """How page contents become hashes."""

    traces: TracesConfig = TracesConfig()
    """What each guest held at each scan."""

    sources: SourcesConfig = SourcesConfig()
    """Whose the pages are that are shared."""

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

    def group_of(self, name: str, metadata_groups: Mapping[str, str] = MappingProxyType({})) -> str:
        """The group of the domain `name`: the first of `groups` that matches, else what `grouping` finds, else
        `DEFAULT_GROUP`. `metadata_groups` is what metadata in the domain's XML says of it, by `MetadataSource`.
        """
        configured = next((group.name for group in self.groups if matches(name, group.match)), None)
        return configured or self.grouping.group_of(name, metadata_groups) or DEFAULT_GROUP


def schema_keys(model: type[BaseModel] = Config, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of the schema as its path from the top, a section before its keys. A list adds no step."""
    for name, field in model.model_fields.items():
        path = (*above, name)
        yield path
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from schema_keys(part, path)
