"""Guests: description of a domain from its XML and state, checks for a scan, and the network links that a suspend
interrupts (libvirt: formatdomain, 'Memory Allocation', 'NUMA', 'Memory devices', 'General metadata').
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor.protocol import check_monitor
from samepaged.hypervisor.qemu_process import ProcessTable, QemuProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.protocol import Domain

__all__ = ["DomainXml", "Guest", "check_links", "describe", "interruption", "parse_domain_xml"]

UNITS: Final = {
    "b": 1,
    "bytes": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1000,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 1000**2,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 1000**3,
    "t": 1 << 40,
    "tib": 1 << 40,
    "tb": 1000**4,
}
# Memory devices that are guest RAM. The others (nvdimm, virtio-pmem, sgx-epc) are storage or sealed.
RAM_DEVICES: Final = frozenset({"dimm", "virtio-mem"})
# Devices of the host that access guest RAM by DMA while QEMU does not run: VFIO (PCI, mediated devices, NICs of a
# network of type hostdev) and vDPA.
PASSED_THROUGH: Final = (
    "./devices/hostdev[@type='pci']",
    "./devices/hostdev[@type='mdev']",
    "./devices/interface[@type='hostdev']",
    "./devices/interface[@type='vdpa']",
    "./devices/interface[@type='network']/source/address[@type='pci']",
)
# Disks that QEMU itself drives over VFIO or vDPA. It completes their requests before it stops the guest.
DRIVEN_BY_QEMU: Final = frozenset({"nvme", "vhostvdpa"})
# Devices in arguments that libvirt passes through to QEMU (<qemu:commandline>).
QEMU_ARGUMENT: Final = "./{http://libvirt.org/schemas/domain/qemu/1.0}commandline/{*}arg"
DMA_ARGUMENT: Final = re.compile(r"vfio|vdpa")
# The modes of macvtap, as libvirt names them. In the live XML a network of macvtaps has dev= and mode= as well.
MACVTAP_MODES: Final = ("vepa", "bridge", "private", "passthrough")
MACVTAP_DEFAULT: Final = "vepa"
MACVTAP_UNKNOWN: Final = "passthrough"  # assumed of a mode that libvirt may add
ADDRESS: Final = re.compile(r"0x[0-9a-f]{1,13}")
MAX_ADDRESS: Final = 1 << 52  # the physical address limit of x86-64
# libvirt keeps one element of a namespace, so one element has all attributes: <scan enabled="no" group="a"/>.
NAMESPACE: Final = "urn:samepaged:domain:1"
# The namespaces that nova/virt/libvirt/config.py writes; an instance keeps its namespace until it is restarted.
NOVA: Final = ("http://openstack.org/xmlns/libvirt/nova/1.1", "http://openstack.org/xmlns/libvirt/nova/1.0")
KUBEVIRT: Final = "http://kubevirt.io"
# NAMESPACE_NAME. A Kubernetes namespace is a label (RFC 1123, 2.1), without underscores: there is one way to read it.
KUBEVIRT_NAME: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_")
YES: Final = frozenset({"yes", "true", "on", "1"})


@dataclass(frozen=True, slots=True)
class DomainXml:
    """The parts of a live domain's XML that a scan needs.

    `blocks`: sizes in bytes of the guest's RAM blocks, in the order of its physical addresses. `vfio`: whether a
    device of the host has the guest's memory mapped for DMA, which pins it. `opt_out`: the metadata's element against
    a scan. `nosharepages`: whether KSM must not merge the memory. `metadata_groups`: the groups that the metadata
    names, by origin. `machine`: libvirt's name of the machine type. `dimms`: guest-physical address
    and size in bytes of the memory devices, which are the last of the blocks; the address is -1 if the XML has none.
    `device_writes`: whether a passed-through device can write to the blocks while the guest is suspended. `macvtap`:
    the modes of the guest's macvtap interfaces, each once.
    """

    blocks: tuple[int, ...]
    encryption: str | None
    vfio: bool
    opt_out: str | None = None
    nosharepages: bool = False
    metadata_groups: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    dimms: tuple[tuple[int, int], ...] = ()
    device_writes: bool = False
    macvtap: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """The guest's memory in bytes."""
        return sum(self.blocks)


def _driven_by_qemu(root: ET.Element) -> bool:
    """Whether a disk, or a layer below it (after a snapshot), or its mirror is a device that QEMU drives itself."""
    disks = root.iterfind("./devices/disk")
    return any(element.get("type") in DRIVEN_BY_QEMU for disk in disks for element in disk.iter())


def _layout_error(what: str) -> GuestError:
    return GuestError(Reason.LAYOUT, f"the domain's XML {what}", "use `--reader dump`, and report this as a bug")


def _size(element: ET.Element, text: str | None) -> int:
    unit = element.get("unit", "KiB")
    factor = UNITS.get(unit.lower())
    digits = (text or "").strip()
    if factor is None or not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(MAX_ADDRESS)):
        raise _layout_error(f"has an invalid memory size: <{element.tag}> {digits[:40]!r} {unit[:20]!r}")
    size = int(digits) * factor
    if size > MAX_ADDRESS:
        raise _layout_error(f"has a memory size beyond the limit of x86-64: <{element.tag}> {digits} {unit}")
    return size


def _ram_devices(root: ET.Element) -> Iterator[tuple[str, int]]:
    for device in root.iterfind("./devices/memory"):
        size = device.find("./target/size")
        if size is not None:
            yield device.get("model", ""), _size(size, size.text)


def _addresses(root: ET.Element) -> Iterator[int]:
    """The guest-physical address of each memory device that is guest RAM; -1 if the XML has none."""
    for device in root.iterfind("./devices/memory"):
        size = device.find("./target/size")
        if size is None or device.get("model", "") not in RAM_DEVICES or not _size(size, size.text):
            continue
        address = device.find("./address[@type='dimm']")
        if address is None:
            address = device.find("./target/address")  # a virtio-mem's: its other address is on the PCI bus
        base = "" if address is None else address.get("base", "")
        yield int(base, 16) if ADDRESS.fullmatch(base) else -1


def _passed_through(root: ET.Element) -> bool:
    arguments = (argument.get("value", "") for argument in root.iterfind(QEMU_ARGUMENT))
    return any(root.find(path) is not None for path in PASSED_THROUGH) or any(map(DMA_ARGUMENT.search, arguments))


def _macvtap(root: ET.Element) -> tuple[str, ...]:
    """The modes of the macvtap interfaces: of type direct, or of a network that the host resolved to one."""
    found = set()
    for interface in root.iterfind("./devices/interface"):
        source = interface.find("./source")
        mode = None if source is None else source.get("mode")
        if interface.get("type") == "direct":
            found.add(MACVTAP_DEFAULT if mode is None else mode if mode in MACVTAP_MODES else MACVTAP_UNKNOWN)
        elif interface.get("type") == "network" and source is not None and source.get("dev") and mode in MACVTAP_MODES:
            found.add(mode)
    return tuple(mode for mode in MACVTAP_MODES if mode in found)


def _metadata_groups(root: ET.Element) -> dict[str, str]:
    """The group in each kind of metadata of the domain `root`: `openstack` (the project's UUID: its name is unique only
    within a domain of Keystone), `kubevirt` (the namespace), `samepaged` (as written). A kind of metadata that names
    no group, or more than one, is left out.
    """
    named = {
        "openstack": set(_projects(root)),
        "kubevirt": {_kubernetes_namespace(root)},
        "samepaged": {scan.get("group", "").strip() for scan in root.iterfind(f"./metadata/{{{NAMESPACE}}}scan")},
    }
    return {source: next(iter(groups)) for source, groups in named.items() if len(groups) == 1 and "" not in groups}


def _projects(root: ET.Element) -> Iterator[str]:
    for nova in NOVA:
        path = "/".join(f"{{{nova}}}{tag}" for tag in ("instance", "owner", "project"))
        for project in root.iterfind(f"./metadata/{path}"):
            yield project.get("uuid", "").strip()


def _kubernetes_namespace(root: ET.Element) -> str:
    # The namespace is in the name alone; the element proves that KubeVirt chose the name.
    name = KUBEVIRT_NAME.match(root.findtext("./name") or "")
    return name[1] if name and root.find(f"./metadata/{{{KUBEVIRT}}}kubevirt") is not None else ""


def _opt_out(root: ET.Element) -> str | None:
    """The metadata's element against a scan, or None. Any value of `enabled` other than a clear yes opts out."""
    for element in root.iterfind("./metadata/*"):
        namespace, _, tag = element.tag.rpartition("}")
        enabled = element.get("enabled", "yes").strip().lower()
        # An error in the last part of the namespace does not cancel the opt-out.
        if tag == "scan" and "samepaged" in namespace.lower() and enabled not in YES:
            return f"<samepaged:scan enabled={enabled[:20]!r}>"
    return None


def parse_domain_xml(xml: str) -> DomainXml:
    """The memory side of a live domain's XML. Raises GuestError."""
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise _layout_error("has a document type, which libvirt never writes")
    try:
        root = ET.fromstring(xml)  # noqa: S314 - what entities could do is refused above
    except (ET.ParseError, ValueError) as error:
        raise _layout_error(f"is not well-formed ({error})") from error
    memory = root.find("./memory")
    if root.tag != "domain" or memory is None:
        raise _layout_error("has no <memory>")
    total = _size(memory, memory.text)
    devices = list(_ram_devices(root))
    storage = sum(size for model, size in devices if model not in RAM_DEVICES)
    dimms = [size for model, size in devices if model in RAM_DEVICES and size]
    cells = [_size(cell, cell.get("memory")) for cell in root.iterfind("./cpu/numa/cell")]
    # libvirt counts every memory device in <memory>, and none of them in the cells.
    boot = [size for size in cells if size] or [total - storage - sum(dimms)]
    if min(boot) <= 0 or sum(boot) + sum(dimms) + storage != total:
        raise _layout_error(f"has blocks of {sum(boot) + sum(dimms) + storage} bytes in a memory of {total} bytes")
    machine = root.find("./os/type")
    launch = root.find("./launchSecurity")
    passed_through = _passed_through(root)
    return DomainXml(
        blocks=(*boot, *dimms),
        encryption=None if launch is None else launch.get("type", "unknown"),
        vfio=passed_through or _driven_by_qemu(root),
        opt_out=_opt_out(root),
        nosharepages=root.find("./memoryBacking/nosharepages") is not None,
        metadata_groups=_metadata_groups(root),
        machine=None if machine is None else machine.get("machine"),
        dimms=tuple(zip(_addresses(root), dimms, strict=True)),
        device_writes=passed_through,
        macvtap=_macvtap(root),
    )


# Mode of a macvtap interface. In this mode, a suspend sets the host device down as well.
PASSTHROUGH: Final = "passthrough"


@dataclass(frozen=True, slots=True)
class Guest:
    """A domain that can be scanned. `id` is libvirt's, new with each start of the domain. `paused`: another client has
    paused it.
    """

    name: str
    guest_id: GuestId
    id: int
    paused: bool
    process: QemuProcess
    xml: DomainXml

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        return self.guest_id.uuid

    @property
    def merge_obstacle(self) -> str | None:
        """Reason in the XML that KSM cannot merge the guest's memory, as a value of scan/label_values.py. A page that
        is pinned for DMA has more references than mappings, and KSM leaves such pages alone.
        """
        if self.xml.vfio:
            return "pinned"
        return "nosharepages" if self.xml.nosharepages else None


def describe(domain: Domain, processes: ProcessTable | None = None) -> Guest:
    """The guest of a domain. `processes` is the table of this round, if more than one domain is described. Raises
    GuestError with the reason if it cannot or must not be scanned.
    """
    name = domain.name
    paused, obstacle = domain.scan_state()
    if obstacle is not None:
        raise GuestError(obstacle.reason, obstacle.text, domain=name)
    check_monitor(domain)
    parsed = parse_domain_xml(domain.xml())
    if parsed.opt_out is not None:
        raise GuestError(Reason.OPTED_OUT, f"opted out of scans: its metadata has {parsed.opt_out}", domain=name)
    if parsed.encryption is not None:
        raise GuestError(
            Reason.ENCRYPTED,
            f"has encrypted memory (launch security {parsed.encryption!r}): the host sees only ciphertext, which never "
            "repeats",
            "exclude it (guests.exclude)",
            domain=name,
        )
    return Guest(
        name=name,
        guest_id=domain.guest_id,
        id=domain.id,
        paused=paused,
        process=(processes or ProcessTable()).find(name, domain.uuid),
        xml=parsed,
    )


def interruption(modes: tuple[str, ...]) -> str:
    """The effect of a suspend on macvtap interfaces in these modes (at least one), as a clause. libvirt sets a macvtap
    link down when it suspends the guest, and up when it resumes it; in mode passthrough also the host's network device
    below (libvirt: qemuInterfaceStopDevice).
    """
    named = f"a macvtap interface (mode {', '.join(modes)}), and libvirt sets its link down at each suspend"
    if PASSTHROUGH in modes:
        named += ", the host's network device as well"
    return f"{named}, and up at the resume"


def check_links(guest: Guest, mode: str, allowed: str) -> None:
    """Raise GuestError if a scan in `mode` (scan.mode) would interrupt a link that `allowed` (scan.macvtap) protects.
    Mode live suspends no guest, and a guest that is paused already is not suspended again.
    """
    if not guest.xml.macvtap or guest.paused or mode == "live" or allowed == "allow_passthrough":
        return
    passthrough = PASSTHROUGH in guest.xml.macvtap
    if allowed == "allow" and not passthrough:
        return
    value = "allow_passthrough" if passthrough else "allow"
    raise GuestError(
        Reason.MACVTAP,
        f"has {interruption(guest.xml.macvtap)}",
        f"to scan it anyway, set scan.macvtap: {value}, or scan.mode: live (no suspend); otherwise exclude it "
        "(guests.exclude)",
        domain=guest.name,
    )
