"""Both readers see the same memory, for all memory backings, and the process reader leaves the host as it was."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import numpy as np
import pytest

from samepaged.hypervisor.guest import describe
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.memory import ram_location
from samepaged.memory.dump_reader import DumpStream
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import locate_ram
from samepaged.sharing import ABSENT, SWAPPED, ZERO
from tests.support.guests import Spec, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from samepaged.hypervisor.guest import Guest
    from tests.support.libvirtd import Libvirtd

SHARED_MEMFD = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
PRIVATE_MEMFD = "<memoryBacking><source type='memfd'/></memoryBacking>"
SHARED_FILE = "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>"
PRIVATE_FILE = "<memoryBacking><source type='file'/></memoryBacking>"
TWO_CELLS = "<numa><cell id='0' cpus='0' memory='64' unit='MiB'/><cell id='1' cpus='1' memory='64' unit='MiB'/></numa>"
UNEQUAL_CELLS = (
    "<numa><cell id='0' cpus='0' memory='96' unit='MiB'/><cell id='1' cpus='1' memory='64' unit='MiB'/></numa>"
)
SPECS = {
    "anonymous": Spec("samepaged-test-anonymous"),
    "i440fx": Spec("samepaged-test-i440fx", machine="pc"),
    "display": Spec("samepaged-test-display", devices="<video><model type='vga'/></video>"),
    "memfd": Spec("samepaged-test-memfd", memory_backing=SHARED_MEMFD),
    "private memfd": Spec("samepaged-test-private-memfd", memory_backing=PRIVATE_MEMFD),
    "file": Spec("samepaged-test-file", memory_backing=SHARED_FILE),
    "private file": Spec("samepaged-test-private-file", memory_backing=PRIVATE_FILE),
    "numa": Spec("samepaged-test-numa", memory=128, vcpus=2, numa=TWO_CELLS),
    "numa memfd": Spec(
        "samepaged-test-numa-memfd", memory=160, vcpus=2, numa=UNEQUAL_CELLS, memory_backing=SHARED_MEMFD
    ),
    # RAM on both sides of the hole below 4 GiB; the guest backs little of it
    "above 4 GiB": Spec("samepaged-test-large", memory=2880),
    "dimm": Spec(
        "samepaged-test-dimm",
        memory=256,  # with memory above 4 GiB to come, the kernel sets 64 MiB aside for bounce buffers
        vcpus=2,
        max_memory="<maxMemory slots='4' unit='MiB'>1024</maxMemory>",
        numa="<numa><cell id='0' cpus='0-1' memory='256' unit='MiB'/></numa>",
    ),
}
DIMM = "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>"
# A dump lacks RAM hidden by a display adapter: 0xa0000 to 0xbffff (README, 'Limits').
HIDDEN = slice(0xA0, 0xC0)


@pytest.fixture
def hypervisor(libvirtd: Libvirtd) -> Iterator[LibvirtHypervisor]:
    hypervisor = LibvirtHypervisor(libvirtd.uri)
    hypervisor.connect()
    yield hypervisor
    hypervisor.close()


@contextlib.contextmanager
def suspended_guest(
    hypervisor: LibvirtHypervisor, connection: Any, root: Path, spec: Spec
) -> Iterator[tuple[Any, Guest]]:
    with running(connection, root, spec) as (writer,):
        if "dimm" in spec.name:
            writer.domain.attachDeviceFlags(DIMM, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        writer.fill(0, 300, 3, 100)
        writer.domain.suspend()
        yield writer.domain, describe(hypervisor.by_uuid(writer.domain.UUIDString()))


def read_process(guest: Guest) -> NDArray[np.uint64]:
    mappings = locate_ram(ram_location.read_smaps(guest.process.pid), guest.xml.blocks)
    with ProcessRam(guest.process.pid, mappings, Hashing(best_hasher(), 7, 1, lambda: False)) as reader:
        return reader.read()


def read_dump(domain: Any, guest: Guest, directory: Path) -> NDArray[np.uint64]:
    def dump(path: Path) -> None:
        domain.coreDumpWithFormat(str(path), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY)

    return DumpStream(dump, directory, guest.xml.blocks, Hashing(best_hasher(), 7, 1, lambda: False)).read()


@pytest.mark.leaves_paused
@pytest.mark.parametrize("layout", SPECS)
def test_both_readers_give_the_same_digest(
    hypervisor: LibvirtHypervisor, connection: Any, root: Path, tmp_path: Path, layout: str
) -> None:
    with suspended_guest(hypervisor, connection, root, SPECS[layout]) as (domain, guest):
        by_process = read_process(guest)
        by_dump = read_dump(domain, guest, tmp_path)
    by_process[by_process == ABSENT] = ZERO  # absent from a dump
    if layout == "display":
        assert (by_dump[HIDDEN] == SWAPPED).all()
        by_process[HIDDEN] = SWAPPED
    assert SWAPPED not in by_dump[HIDDEN.stop :]
    assert len(by_process) == guest.xml.memory // 4096
    np.testing.assert_array_equal(by_process, by_dump)


def host_memory(pid: int) -> dict[str, int]:
    """A guest's cost for its host, in KiB; VmHWM and the like, which only grow, are not of interest."""
    wanted = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmPTE", "VmSwap")
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) for key in wanted}


def backing_blocks(pid: int) -> int:
    """The blocks of 512 bytes that the files behind a guest's memory have: a page that is read there must not get any.
    (The machine's shared memory changes with the guests of other tests.)
    """
    files = {(link.readlink(), link.stat().st_ino): link.stat() for link in Path(f"/proc/{pid}/map_files").iterdir()}
    return sum(file.st_blocks for file in files.values())


BACKINGS = {
    "anonymous": "",
    "memfd": SHARED_MEMFD,
    "private memfd": PRIVATE_MEMFD,
    "file": SHARED_FILE,
    "private file": PRIVATE_FILE,
}


@pytest.mark.leaves_paused
@pytest.mark.parametrize("backing", BACKINGS)
def test_reading_does_not_grow_the_hosts_memory(
    hypervisor: LibvirtHypervisor, connection: Any, root: Path, backing: str
) -> None:
    # Freshly booted, with most of its RAM never touched: 256 MiB, about a fifth of it backed.
    spec = Spec("samepaged-test-fresh", memory=256, cmdline="init_on_free=0", memory_backing=BACKINGS[backing])
    with suspended_guest(hypervisor, connection, root, spec) as (_, guest):
        pid, own = guest.process.pid, os.getpid()
        before, blocks_before, own_before = host_memory(pid), backing_blocks(pid), host_memory(own)["RssShmem"]
        pages = read_process(guest)
        after, blocks_after, own_after = host_memory(pid), backing_blocks(pid), host_memory(own)["RssShmem"]
    assert (pages == ABSENT).mean() > 0.25
    assert after == before
    assert blocks_after == blocks_before
    assert own_after - own_before < 1024
    assert np.count_nonzero(pages > ZERO) > 1000
