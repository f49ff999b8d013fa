"""A domain's XML: the guest's memory, and the reasons that forbid a scan; then its blocks, located in a process that
has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from samepaged.hypervisor.guest import MACVTAP_MODES, parse_domain_xml
from samepaged.memory.ram_location import RAM_FLAG, Vma, locate_ram
from tests.fuzz.target import Target, seed_files

if TYPE_CHECKING:
    from random import Random

LARGEST: Final = 1 << 52
OPTED_OUT: Final = b"<metadata><samepaged:scan xmlns:samepaged='urn:samepaged:domain:1' enabled='no'/></metadata>"
WORDS: Final = (
    *(b"<domain>", b"</domain>", b"<memory unit='KiB'>", b"</memory>", b"<memory>131072</memory>", b"<devices>"),
    *(b"</devices>", b"<memory model='dimm'><target><size unit='KiB'>131072</size></target></memory>"),
    *(b"<memory model='nvdimm'><target><size>0</size></target></memory>", b"model='virtio-mem'", b"unit='TiB'"),
    *(b"<cpu><numa><cell memory='65536' unit='KiB'/></numa></cpu>", b"<cell id='1' memory='0'/>", b"unit='b'"),
    *(b"<hostdev type='pci'/>", b"<interface type='vdpa'/>", b"<disk type='nvme'/>", b"<launchSecurity type='sev'/>"),
    *(b"<interface type='direct'><source dev='e' mode='bridge'/></interface>", b"mode='passthrough'"),
    *(
        b"<!DOCTYPE d [<!ENTITY a 'b'>]>",
        b"&a;",
        b"&amp;",
        b"&#0;",
        b"&#xd800;",
        b"&#x663;",
        b"<![CDATA[",
        b"]]>",
        b"<!--",
    ),
    *(b"-->", b"<?xml version='1.0' encoding='utf-16'?>", b"xmlns='x'", b"xmlns:samepaged='urn:samepaged:domain:1'"),
    *(OPTED_OUT, b"enabled='no'", b"enabled='yes'", b"<metadata>", b"</metadata>", b"<a>" * 50, b"</a>" * 50),
)


def check(data: bytes) -> None:
    xml = data.decode("utf-8", "surrogateescape")
    found = parse_domain_xml(xml)
    assert all(0 < size <= LARGEST for size in found.blocks)
    assert 0 < found.memory <= LARGEST
    root = ET.fromstring(xml)  # noqa: S314 - accepted, so free of entities
    assert parse_domain_xml(ET.tostring(root, encoding="unicode")) == found
    assert found.vfio or not found.device_writes
    assert len(set(found.macvtap)) == len(found.macvtap) <= len(MACVTAP_MODES)
    assert (found.encryption is not None) == (root.find("launchSecurity") is not None)
    if found.opt_out is None:
        assert not any(_forbids(element) for element in root.findall("metadata/*"))
    # QEMU's mappings of these blocks are adjacent, so the kernel shows them as one.
    starts = [sum(found.blocks[: index + 1]) for index in range(len(found.blocks))]
    vmas = [
        Vma(end - size, end, "rw-p", 0, (0, 0), 0, "", frozenset({RAM_FLAG, f"{index % 2}"}))
        for index, (size, end) in enumerate(zip(found.blocks, starts, strict=True))
    ]
    assert sorted(mapping.size for mapping in locate_ram(vmas, found.blocks)) == sorted(found.blocks)


def _forbids(element: ET.Element) -> bool:
    return element.tag == "{urn:samepaged:domain:1}scan" and element.get("enabled") in {"no", "false", "off", "0", ""}


def grow(random: Random) -> bytes:
    """Return a seed's tree with elements removed, duplicated and moved, and with other sizes, kinds and units."""
    root = ET.fromstring(random.choice(TARGET.seeds))  # noqa: S314 - trusted seed
    for _ in range(random.randint(1, 6)):
        places = [(parent, child) for parent in root.iter() for child in parent if child.tag in TELLING]
        if not places:
            break
        (parent, child), (elsewhere, _) = random.choice(places), random.choice(places)
        match random.randrange(5):
            case 0:
                parent.remove(child)
            case 1:
                parent.append(child)
            case 2:
                elsewhere.append(ET.fromstring(random.choice(GRAFTS)))  # noqa: S314 - trusted
            case 3:
                child.text = random.choice(SIZES)
            case _:
                child.set(*random.choice(ATTRIBUTES))
    return ET.tostring(root)


TELLING: Final = frozenset(
    (
        "memory",
        "size",
        "target",
        "cell",
        "numa",
        "cpu",
        "devices",
        "metadata",
        "launchSecurity",
        "hostdev",
        "memballoon",
    )
)
SIZES: Final = ("0", "1", "4", " 98304 ", "131072", "98304", "65536", "4503599627370496", "-1", "1e3", "", "٣")
ATTRIBUTES: Final = (
    *(("unit", unit) for unit in ("KiB", "b", "MB", "TiB", "furlong", "")),
    *(("model", model) for model in ("dimm", "nvdimm", "virtio-mem", "sgx-epc")),
    *(("memory", size) for size in SIZES),
    *(("type", kind) for kind in ("pci", "sev", "hostdev", "")),
)
GRAFTS: Final = (
    *("<cell memory='65536'/>", "<launchSecurity type='tdx'/>", "<hostdev type='pci'/>", "<disk type='nvme'/>"),
    "<interface type='direct'><source mode='vepa'/></interface>",
    "<memory model='dimm'><target><size>65536</size></target></memory>",
    "<memory model='virtio-mem'><target><size unit='b'>0</size></target></memory>",
    OPTED_OUT.decode(),
)
_PLAIN, *_ = _SEEDS = seed_files("domain")
TARGET = Target(
    check,
    seeds=(*_SEEDS, _PLAIN.replace(b"</name>", b"</name>" + OPTED_OUT, 1)),
    words=WORDS,
    longest=4096,
    grow=grow,
)
