"""The study's matrix, the guests' boot parameters, and their console messages."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from experiments.build import release_sources
from experiments.documents import write_documents
from experiments.guest import Boot, console_messages, debian_cmdline, domain_xml
from experiments.matrix import BOOTS, MATRIX, RELEASES, SETUPS, Cell, select_cells
from experiments.payload import pack
from experiments.recipe import recipe
from tests.support.vm.steps import LabError


def test_cell_names_are_unique() -> None:
    assert max(Counter(cell.name for cell in MATRIX).values()) == 1


def test_each_platform_has_each_setup() -> None:
    here = {(cell.platform, cell.setup) for cell in MATRIX if {"setups", cell.setup} == set(cell.sets)}
    assert here == {
        (f"{release}-{arch}", setup) for release in RELEASES for arch in ("amd64", "i386") for setup in SETUPS
    }


def test_clones_are_adjacent() -> None:
    compiling = [number for number, cell in enumerate(MATRIX) if cell.setup == "compile"]
    assert [after - before for before, after in pairwise(compiling)] == [1]
    assert len({MATRIX[number].words for number in compiling}) == 2


@pytest.mark.parametrize(
    ("kind", "without"), [("aslr", ()), ("noaslr", ("norandmaps",)), ("nokaslr", ("norandmaps", "nokaslr"))]
)
def test_aslr_boots_differ_by_cmdline(kind: str, without: tuple[str, ...]) -> None:
    boots = [cell for cell in MATRIX if cell.sets == (kind,)]
    assert len(boots) == BOOTS
    for cell in boots:
        assert (cell.platform, cell.setup, cell.memory) == ("bookworm-amd64", "desktop", 1024)
        words = debian_cmdline(cell.words).split()
        assert [word for word in words if word in ("norandmaps", "nokaslr")] == list(without)


def test_cells_are_selected_by_prefix() -> None:
    assert [cell.name for cell in select_cells(MATRIX, ["compile", "aslr-1"])] == ["compile-1", "compile-2", "aslr-1"]
    assert select_cells(MATRIX, []) == list(MATRIX)


def test_setups_of_a_platform_share_an_image() -> None:
    images = {recipe("bullseye", "i386", setup) for setup in SETUPS}
    assert len(images) == 1
    assert "linux-image-686-pae" in images.pop().packages


def test_compiler_is_only_in_compile_image() -> None:
    assert "gcc" in recipe("bookworm", "amd64", "compile").packages
    assert "gcc" not in recipe("bookworm", "amd64", "desktop").packages


def test_image_key_follows_packages() -> None:
    keys = {recipe(*words).key() for words in (("bookworm", "amd64", "plain"), ("bookworm", "amd64", "compile"))}
    assert len(keys) == 2
    assert recipe("bookworm", "amd64", "plain").key() in keys


def test_release_uses_the_local_archive() -> None:
    listing = (
        "deb http://a/debian bookworm main\ndeb http://a/debian bookworm-updates main\ndeb http://s bookworm main\n"
    )
    assert release_sources(listing, "bullseye") == "deb http://a/debian bullseye main\ndeb http://s bullseye main\n"


def test_missing_archive_is_an_error() -> None:
    with pytest.raises(LabError, match="knows no archive"):
        release_sources("deb http://a/debian trixie main\n", "bullseye")


def test_guest_has_overlay_payload_and_console() -> None:
    boot = Boot(Path("/k"), Path("/i"), "a=1 b=<2>", Path("/over&above.qcow2"), Path("/load.tar"))
    domain = ET.fromstring(domain_xml("one", 512, boot, Path("/console.log")))  # noqa: S314  # our own
    assert domain.get("type") == "qemu"
    assert domain.findtext("memory") == "512"
    assert domain.findtext("os/cmdline") == "a=1 b=<2>"
    disks = {disk.find("target").get("dev"): disk for disk in domain.findall("devices/disk")}  # type: ignore[union-attr]
    assert disks["vda"].find("source").get("file") == "/over&above.qcow2"  # type: ignore[union-attr]
    assert disks["vdb"].find("readonly") is not None
    assert domain.find("devices/serial/source").get("path") == "/console.log"  # type: ignore[union-attr]
    assert domain.find("devices/interface") is None


def test_a_guest_may_have_no_disk() -> None:
    domain = ET.fromstring(domain_xml("one", 96, Boot(Path("/k"), Path("/i"), "x"), Path("/c")))  # noqa: S314  # our own
    assert domain.findall("devices/disk") == []


def test_guest_messages_differ_from_kernel_log() -> None:
    console = "[    0.1] field: not this\r\nfield: mark 1\r\n\nfield: no window News\nMemFree: 1 kB\nfield: done\r\nfie"
    assert console_messages(console) == ["mark 1", "no window News", "done"]


def test_incomplete_line_is_ignored() -> None:
    assert console_messages("field: mark 1\nfield: do") == ["mark 1"]


def test_kernel_words_name_setup_and_variant() -> None:
    cell = Cell("one", "bookworm", "amd64", "server", (), variant=3, kernel_words="nokaslr")
    assert cell.words == "field.setup=server field.variant=3 nokaslr"


def test_documents_are_deterministic(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        write_documents(directory)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert {path.suffix for path in names} == {".txt", ".pdf", ".wav", ".fodt", ".fods", ".html"}
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_payload_is_deterministic(tmp_path: Path) -> None:
    packed = []
    for number in range(2):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        packed.append(pack(scratch / "disk", scratch).read_bytes())
    assert packed[0] == packed[1]
    assert len(packed[0]) % (1 << 20) == 0
