"""The configuration's keys. docs/reference/configuration.md and config.example.yaml are generated from these types,
defaults and docstrings: `make generate` after a change.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt, ValidationInfo, field_validator

from samepaged.config.groups import DEFAULT_GROUP, GroupConfig, GroupingConfig, Groups, MetadataOrigin
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

__all__ = ["DEFAULT_GROUP", "Config", "ExportConfig", "GroupConfig", "GroupingConfig", "GuestsConfig", "HashingConfig"]
__all__ += ["LibvirtConfig", "LogConfig", "LogLevel", "Macvtap", "MetadataOrigin", "Mode", "Reader"]
__all__ += ["ScanConfig", "SourcesConfig", "SyncClock", "TracesConfig", "schema_keys"]

Mode = Literal["auto", "snapshot", "precopy", "sliced", "live"]
Reader = Literal["auto", "process", "dump"]
SyncClock = Literal["none", "agent"]
Macvtap = Literal["skip", "allow", "allow_passthrough"]
LogLevel = Literal["debug", "info", "warning", "error"]


class LibvirtConfig(Section):
    """Connection to libvirt."""

    uri: Text = "qemu:///system"
    """libvirt connection URI. It must name the QEMU driver of this host, because samepaged reads guest memory
    locally.
    """


class GuestsConfig(Section):
    """Selection of the guests to scan."""

    include: SomePatterns = ("*",)
    """Names of domains to scan."""

    exclude: Patterns = ()
    """Names of domains never to scan, even if `include` matches them. List guests here that must never be suspended.
    """

    def selects(self, name: str) -> bool:
        """Whether the domain `name` is to be scanned."""
        return matches(name, self.include) and not matches(name, self.exclude)


def _each_once(page_sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(page_sizes)) < len(page_sizes):
        raise InvalidValueError("lists a page size twice", "list each once")
    return page_sizes


class ScanConfig(Section):
    """Schedule, consistency and cost of scans."""

    interval: Interval = 900.0
    """Time from the start of one scan of all guests to the start of the next. Memory changes slowly: a shorter
    interval costs more and rarely shows more.
    """

    jitter: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.1
    """Random variation of the interval, as a ratio of it, so that the hosts of a fleet do not scan at the same time. 0
    disables it.
    """

    mode: Mode = "auto"
    """Consistency mode: the suspension of a guest during a scan.

    - `snapshot`: for the whole read; exact at one instant, with the longest pause.
    - `precopy`: for a second read of the pages that the guest wrote during the first; as exact, with a short pause.
      Needs soft-dirty bits in the kernel.
    - `sliced`: for many short slices; each slice is exact, at different times.
    - `live`: never; no consistency guarantee.
    - `auto`: the most exact of `snapshot`, `precopy` and `sliced` with a predicted pause within `max_pause`.
    """

    reader: Reader = "auto"
    """Reader of guest memory.

    - `process`: the memory of the QEMU process; fast.
    - `dump`: libvirt's memory dump; needs no permission to read QEMU's memory.
    - `auto`: `process` if it supports the guest's memory layout, otherwise `dump`.
    """

    max_pause: Duration = 0.25
    """Longest suspension of a guest at a time."""

    max_duty: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.01
    """Largest share of time for which `sliced` suspends a guest, as a ratio: 0.01 is 10 ms in every second."""

    max_drift: Drift = 0.0005
    """Largest clock drift that all scans of a guest together may cause within any hour, because the guest's clock
    stands still during a suspension (docs/operate/what-guests-notice.md#clocks). 500ppm is 1.8 s per hour, the most
    that ntpd corrects. A guest that would drift further is scanned less often. 1 sets no bound. `samepaged doctor`
    shows the number of scans that fit, for each guest.
    """

    sync_clock: SyncClock = "none"
    """Correction of a guest's clock after a scan. Guests that follow the host's clock, such as with chrony and
    ptp_kvm, need none (docs/operate/what-guests-notice.md#clocks).

    - `none`: no correction.
    - `agent`: by the guest agent (qemu-guest-agent), after a scan with a total suspension above `sync_clock_above`.
    """

    sync_clock_above: Duration = 0.1
    """Total suspension of a guest in a scan above which `sync_clock` applies."""

    threads: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    """Threads that hash pages. `null` takes half of the available cores, at least one. Fewer threads disturb the
    guests less; more threads shorten the scan.
    """

    memory_limit: Size = 2**30
    """Memory for the hashes that samepaged keeps between scans, 8 bytes for each 4 KiB page: 1GiB is enough for 512
    GiB of guests. Above the limit, the hashes of the largest guests are dropped, and the next scan reads these guests
    in full. 0 keeps none.
    """

    still_ksm: StrictBool = False
    """Whether samepaged may stop KSM for the seconds in which `precopy` relies on soft-dirty bits, which the kernel
    loses for pages that KSM merges. samepaged restores KSM afterwards. If false, `precopy` reads again every page
    that KSM may have merged.
    """

    macvtap: Macvtap = "skip"
    """Whether to suspend guests with macvtap interfaces. libvirt sets a macvtap link down when it suspends the guest,
    and up when it resumes it; in mode passthrough also the host's network device
    (docs/operate/what-guests-notice.md#links).

    - `skip`: do not scan these guests, except in mode `live`.
    - `allow`: scan these guests, unless an interface is in mode passthrough.
    - `allow_passthrough`: scan all of these guests.
    """

    page_sizes: Annotated[
        tuple[PageSize, ...], AfterValidator(_each_once), Field(json_schema_extra={"uniqueItems": True})
    ] = ()
    """Additional page sizes to report sharing for. `[2KiB, 64KiB, 2MiB]` shows the sharing that remains if the host
    backs guests with huge pages. Larger sizes add no reading.
    """

    verify_every: Annotated[StrictInt, Field(ge=0)] = 10
    """Interval, in scans of a guest, at which samepaged reads a random sample of the pages that it assumes unchanged. 0
    disables the check.
    """

    verify_pages: Annotated[StrictInt, Field(ge=1)] = 1024
    """Number of pages in that sample."""

    @property
    def thread_count(self) -> int:
        """Number of threads that hash pages: `threads`, or half of the cores that this process may use."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // 2)


class HashingConfig(Section):
    """Hashing of page contents."""

    seed: Seed = Field(default=None, repr=False)
    """Seed of the page hashes. `null` generates a random seed once and keeps it in `state_directory`. Hosts with
    comparable hashes need the same seed. Keep it secret, and this file readable by samepaged only: with the seed, a
    hash reveals whether a guest holds a known page.
    """


class TracesConfig(Section):
    """Page-hash traces (docs/reference/traces.md): the page hashes of each guest at each scan, 8 bytes for each
    distinct page, for `samepaged study` and `samepaged fleet`. They need DuckDB: `pip install 'samepaged[traces]'`.
    """

    enabled: StrictBool = False
    """Whether each scan writes a trace of each guest. samepaged writes it during the scan of the next guest."""

    directory: Directory = Path("/var/lib/samepaged/traces")
    """Directory of the traces, readable by samepaged only, because hashes reveal which guests hold a known page. A
    directory outside `state_directory` needs a drop-in for the systemd unit: `ReadWritePaths=/srv/traces`.
    """

    host: Text | None = None
    """Name of this host in the traces. `null` takes the host name of the machine."""

    max_age: Duration = 30 * 86_400.0
    """Age at which a trace is removed."""

    max_bytes: Size = 10 * 2**30
    """Size of all traces above which the oldest are removed. A trace of a 4 GiB guest takes at most 8 MiB."""

    @property
    def host_name(self) -> str:
        """`host`, or the host name of this machine."""
        return self.host or platform.node() or "localhost"


class SourcesConfig(Section):
    """Page attribution (docs/analysis/attribution.md): the stacks, heaps, libraries, page cache and so on to which
    shared pages belong, according to the kernel of a Linux guest. An unprivileged process reads it from a copy of
    some of the guest's memory.
    """

    enabled: StrictBool = False
    """Whether some of the scans include page attribution."""

    every: Annotated[StrictInt, Field(ge=1)] = 10
    """Interval of attributions, in scans of a guest; the first scan includes one. Attribution takes about as long as
    hashing the guest.
    """

    names: StrictBool = False
    """Whether to report names of processes and paths of files in the guests, which belong to the tenants. If false,
    only kinds of memory are reported, and the names do not leave the process that reads the copy.
    """

    name_labels: StrictBool = False
    """Whether these names are also labels of metrics; requires `names`. A guest that starts programs with ever new
    names then creates ever new series.
    """

    top: Annotated[StrictInt, Field(ge=1, le=100)] = 10
    """Number of series of a guest for its kinds of memory, and for its processes and files: those with the most
    sharing.
    """

    memory_limit: Size = 2**30
    """Memory for the copy of one guest. Attribution copies about a fortieth of the guest's memory; a guest that needs
    more than the limit gets an incomplete result. The limit also bounds the results of all guests of a scan; the
    remaining guests follow at the next scan.
    """

    time_limit: Duration = 30.0
    """Time limit of the process that reads the copy, both before and after the suspension of the guest. A process
    that exceeds it is killed, and the guest does not get a result.
    """

    seccomp: StrictBool = True
    """Whether that process must run under a system call filter, which needs libseccomp (libseccomp.so.2). If true and
    the library is missing, no guest has a result. If false, the process runs without the filter and keeps its other
    limits.
    """

    btf_directory: Directory | None = None
    """Directory with the types of kernels that do not include their own (CONFIG_DEBUG_INFO_BTF), as files
    `BUILD-ID.btf`. samepaged trusts these files: use only files that you built.
    """

    @field_validator("name_labels")
    @classmethod
    def _names_are_known(cls, labels: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic hands it so
        if labels and not info.data.get("names"):
            raise InvalidValueError("requires names, but sources.names is false", "set sources.names to true")
        return labels


class ExportConfig(Section):
    """Export of metrics to Prometheus."""

    listen: Listen | None = "127.0.0.1:9953"
    """Address of the metrics endpoint. Port 0 takes any free port. On an address other than a loopback one, also set
    `web_config_file`. `null` opens no port.
    """

    textfile: File | None = None
    """File for the textfile collector of node_exporter, for hosts that must not open a port
    (docs/reference/metrics.md#without-a-port). samepaged writes the metrics to it after each scan, and removes it at
    exit. The name must end with `.prom`. The systemd unit needs a drop-in:
    `ReadWritePaths=/var/lib/prometheus/node-exporter`.
    """

    web_config_file: File | None = None
    """File with TLS, client certificates and passwords, in the format of the Prometheus exporter-toolkit
    (docs/operate/web.md). The web process reads it, and reads it again after a change.
    """

    pairs: Annotated[StrictInt, Field(ge=0, le=1000)] = 20
    """Number of pairs of guests with series: those with the most sharing. n guests have n(n-1)/2 pairs."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (an IPv6 address without brackets) and port of `listen`; None if it is null."""
        return None if self.listen is None else address(self.listen)

    @field_validator("textfile")
    @classmethod
    def _collected(cls, path: Path | None) -> Path | None:
        # node_exporter's collector ignores other files.
        if path is not None and path.suffix != ".prom":
            raise InvalidValueError(
                f"{shown(str(path))} is not collected by node_exporter", "use a name that ends with .prom"
            )
        return path


class LogConfig(Section):
    """Logging."""

    level: LogLevel = "info"
    """Least severe level that is logged. The audit trail (docs/operate/install.md) needs `info`."""


class Config(Section):
    """The whole configuration. `Config()` is the built-in defaults."""

    libvirt: LibvirtConfig = LibvirtConfig()
    guests: GuestsConfig = GuestsConfig()
    groups: Groups = ()
    """Groups of guests that may share memory with each other: one for each tenant or project with guests that trust
    each other. Sharing across groups is a side channel, so it is reported separately, for the host. A guest belongs to
    the first group that matches its name.

        groups:
          - name: shop
            match: ["shop-*", "web?"]
          - name: laboratory
            match: ["lab-*"]
    """

    grouping: GroupingConfig = GroupingConfig()
    scan: ScanConfig = ScanConfig()
    hashing: HashingConfig = HashingConfig()
    traces: TracesConfig = TracesConfig()
    sources: SourcesConfig = SourcesConfig()
    state_directory: Directory = Path("/var/lib/samepaged")
    """Directory of the state that survives a reboot: the seed."""

    runtime_directory: Directory = Path("/run/samepaged")
    """Directory of the journal of suspended guests, from which `samepaged recover` resumes them. It must be the same
    for every samepaged on this host.
    """

    export: ExportConfig = ExportConfig()
    log: LogConfig = LogConfig()

    def selects(self, name: str) -> bool:
        """Whether the domain `name` is to be scanned."""
        return self.guests.selects(name)

    def group_of(self, name: str, metadata_groups: Mapping[str, str] = MappingProxyType({})) -> str:
        """The group of the domain `name`: the first of `groups` that matches, else the group from `grouping`, else
        `DEFAULT_GROUP`. `metadata_groups`: groups in the metadata of the domain's XML, by `MetadataOrigin`.
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
