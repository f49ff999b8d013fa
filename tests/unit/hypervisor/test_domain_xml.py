from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor.guest import parse_domain_xml

MIB = 1 << 20


def domain(*parts: str, memory: str = "<memory unit='KiB'>131072</memory>") -> str:
    return f"<domain type='kvm' id='3'><name>a</name>{memory}{''.join(parts)}</domain>"


CELLS = "<cpu><numa><cell id='0' memory='65536' unit='KiB'/><cell id='1' memory='65536' unit='KiB'/></numa></cpu>"


def memory_device(model: str, mib: int) -> str:
    return f"<devices><memory model='{model}'><target><size unit='MiB'>{mib}</size></target></memory></devices>"


def test_plain_memory_is_one_block() -> None:
    assert parse_domain_xml(domain()).blocks == (128 * MIB,)


def test_each_numa_cell_is_a_block() -> None:
    assert parse_domain_xml(domain(CELLS)).blocks == (64 * MIB, 64 * MIB)


def test_empty_cell_is_no_block() -> None:
    cells = "<cpu><numa><cell id='0' memory='128' unit='MiB'/><cell id='1' memory='0'/></numa></cpu>"
    assert parse_domain_xml(domain(cells)).blocks == (128 * MIB,)


@pytest.mark.parametrize("model", ["dimm", "virtio-mem"])
def test_hot_plugged_dimm_follows_cells(model: str) -> None:
    xml = domain(CELLS, memory_device(model, 32), memory=f"<memory>{160 * 1024}</memory>")
    assert parse_domain_xml(xml).blocks == (64 * MIB, 64 * MIB, 32 * MIB)


def test_empty_memory_device_is_no_block() -> None:
    assert parse_domain_xml(domain(memory_device("virtio-mem", 0))).blocks == (128 * MIB,)


def test_persistent_memory_is_no_block() -> None:
    xml = domain(memory_device("nvdimm", 32), memory=f"<memory>{160 * 1024}</memory>")
    assert parse_domain_xml(xml).blocks == (128 * MIB,)


@pytest.mark.parametrize(
    ("device", "vfio"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", True),
        ("<hostdev mode='subsystem' type='mdev'/>", True),
        ("<interface type='hostdev'/>", True),
        ("<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>", True),
        (
            "<interface type='network'><source network='n'><address type='pci' domain='0x0000'/></source></interface>",
            True,
        ),
        ("<hostdev mode='subsystem' type='usb'/>", False),
        ("<hostdev mode='subsystem' type='scsi'/>", False),
        ("<interface type='network'/>", False),
        ("<interface type='network'><source network='n'/><address type='pci'/></interface>", False),
        ("<interface type='direct'><source dev='eth0' mode='bridge'/></interface>", False),
    ],
)
def test_passed_through_devices_pin_and_write(device: str, vfio: bool) -> None:  # noqa: FBT001
    parsed = parse_domain_xml(domain(f"<devices>{device}</devices>"))
    assert (parsed.vfio, parsed.device_writes) == (vfio, vfio)


@pytest.mark.parametrize("kind", ["nvme", "vhostvdpa"])
@pytest.mark.parametrize(
    "disk",
    [
        "<disk type='{}'/>",
        "<disk type='file'><backingStore type='{}'/></disk>",  # after a snapshot
        "<disk type='file'><backingStore type='file'><backingStore type='{}'/></backingStore></disk>",
        "<disk type='file'><mirror type='{}'/></disk>",
    ],
)
def test_disks_that_qemu_drives_pin_only(disk: str, kind: str) -> None:
    parsed = parse_domain_xml(domain(f"<devices>{disk.format(kind)}</devices>"))
    assert (parsed.vfio, parsed.device_writes) == (True, False)


@pytest.mark.parametrize(
    ("value", "found"), [("vfio-pci,host=01:00.0", True), ("vhost-vdpa,vhostdev=/dev/x", True), ("e1000", False)]
)
def test_devices_of_the_qemu_command_line(value: str, found: bool) -> None:  # noqa: FBT001
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    line = f"<q:commandline xmlns:q='{namespace}'><q:arg value='-device'/><q:arg value='{value}'/></q:commandline>"
    assert parse_domain_xml(domain(line)).device_writes is found
    assert parse_domain_xml(domain(line.replace(namespace, "urn:another"))).device_writes is False


def interface(kind: str, source: str) -> str:
    return f"<interface type='{kind}'><source {source}/><target dev='macvtap0'/></interface>"


@pytest.mark.parametrize(
    ("interfaces", "modes"),
    [
        ((), ()),
        ((interface("direct", "dev='eth0' mode='bridge'"),), ("bridge",)),
        ((interface("direct", "dev='eth0'"),), ("vepa",)),
        (
            (interface("direct", "dev='eth0' mode='passthrough'"), interface("direct", "dev='a'")),
            ("vepa", "passthrough"),
        ),
        ((interface("direct", "dev='a' mode='bridge'"), interface("direct", "dev='b' mode='bridge'")), ("bridge",)),
        ((interface("direct", "dev='eth0' mode='of-the-future'"),), ("passthrough",)),
        ((interface("network", "network='n' dev='eth0' mode='private'"),), ("private",)),
        ((interface("network", "network='default' bridge='virbr0'"),), ()),
        ((interface("network", "network='n' mode='private'"),), ()),
        ((interface("bridge", "bridge='br0'"), interface("ethernet", "dev='a' mode='bridge'")), ()),
        (("<interface type='direct'/>",), ("vepa",)),
    ],
)
def test_macvtap_modes(interfaces: tuple[str, ...], modes: tuple[str, ...]) -> None:
    assert parse_domain_xml(domain(f"<devices>{''.join(interfaces)}</devices>")).macvtap == modes


@pytest.mark.parametrize("kind", ["sev", "sev-snp", "tdx"])
def test_launch_security_is_told(kind: str) -> None:
    assert parse_domain_xml(domain(f"<launchSecurity type='{kind}'/>")).encryption == kind


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("", "not well-formed"),
        ("<domain>", "not well-formed"),
        ("<domain/>", "no <memory>"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>", "document type"),
        (domain(memory="<memory unit='furlong'>3</memory>"), "'furlong'"),
        (domain(memory="<memory>-3</memory>"), "'-3'"),
        (domain(memory="<memory>\uff19</memory>"), "memory size"),
        (domain(memory="<memory>99999999999999999999999</memory>"), "memory size"),
        (domain(memory="<memory unit='TiB'>99999</memory>"), "beyond the limit of x86-64"),
        (domain(CELLS, memory="<memory>1024</memory>"), "blocks of"),
        (domain(memory_device("dimm", 128)), "blocks of"),
    ],
)
def test_invalid_xml_is_refused(xml: str, words: str) -> None:
    with pytest.raises(GuestError, match=words) as caught:
        parse_domain_xml(xml)
    assert caught.value.reason is Reason.LAYOUT
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_parses_or_raises(text: str) -> None:
    with pytest.raises(GuestError):
        parse_domain_xml(text)


@given(st.text(alphabet="<>/'=0123456789 abcdeimnoruy", max_size=80))
@example("<name>a</name>")
def test_any_domain_content_parses_or_raises(text: str) -> None:
    try:
        hardware = parse_domain_xml(f"<domain><memory>4096</memory>{text}</domain>")
    except GuestError as error:
        assert error.reason is Reason.LAYOUT
        assert text != "<name>a</name>"
    else:
        assert hardware.memory > 0


@pytest.mark.parametrize("namespace", ["urn:samepaged:domain:1", "https://example.org/samepaged"])
@pytest.mark.parametrize("enabled", ["no", "NO", " false ", "0", "", "maybe"])
def test_opt_out_needs_explicit_yes(namespace: str, enabled: str) -> None:
    metadata = f"<metadata><x:scan xmlns:x='{namespace}' enabled='{enabled}'/></metadata>"
    assert parse_domain_xml(domain(metadata)).opt_out is not None


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "<metadata/>",
        "<metadata><x:scan xmlns:x='urn:samepaged:domain:1' enabled='yes'/></metadata>",
        "<metadata><x:scan xmlns:x='urn:samepaged:domain:1'/></metadata>",
        "<metadata><x:scan xmlns:x='urn:another' enabled='no'/></metadata>",
        "<metadata><x:other xmlns:x='urn:samepaged:domain:1' enabled='no'/></metadata>",
    ],
)
def test_other_metadata_is_no_opt_out(metadata: str) -> None:
    assert parse_domain_xml(domain(metadata)).opt_out is None


def dimm(address: str, model: str = "dimm", inside: str = "") -> str:
    target = f"<target><size unit='MiB'>32</size>{inside}</target>"
    return f"<devices><memory model='{model}'>{target}{address}</memory></devices>"


@pytest.mark.parametrize(
    ("device", "start"),
    [
        (dimm("<address type='dimm' slot='0' base='0x100000000'/>"), 1 << 32),
        (dimm("<address type='pci' bus='0x05'/>", "virtio-mem", "<address base='0x140000000'/>"), 5 << 30),
        (dimm("<address type='pci' bus='0x05'/>", "virtio-mem"), -1),
        (dimm("<address type='dimm' slot='0' base='-0x1'/>"), -1),
        (dimm(f"<address type='dimm' base='0x{'f' * 14}'/>"), -1),
        (dimm(""), -1),
    ],
)
def test_dimm_address_may_be_unknown(device: str, start: int) -> None:
    hardware = parse_domain_xml(domain(device, memory=f"<memory>{160 * 1024}</memory>"))
    assert hardware.dimms == ((start, 32 * MIB),)


def test_machine_type_is_optional() -> None:
    assert (
        parse_domain_xml(domain("<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>")).machine == "pc-q35-7.2"
    )
    assert parse_domain_xml(domain("<os><type>hvm</type></os>")).machine is None
    assert parse_domain_xml(domain()).machine is None
