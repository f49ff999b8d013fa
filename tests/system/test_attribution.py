"""Page attribution compared with real guests' own reports, through a complete scan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.attribution import memory_image
from tests.support.attribution.guests import initramfs
from tests.support.attribution.labels import BUSY_ONES, compared
from tests.support.attribution.memory_image import BUSY, IDLE, PLANTED, planted_library
from tests.support.attribution.scan import owners
from tests.support.guests import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.attribution.guests import InitramfsGuest
    from tests.support.command import Samepaged

MEMORY = 192
MACHINE = ("q35", MEMORY << 20)
PLANTED_PAGES = 64


@pytest.fixture(scope="module")
def guests(connection: Any, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[InitramfsGuest]]:
    """An idle guest and a busy one, with one library planted in both, mapped by a process of each."""
    library = planted_library(tmp_path_factory.mktemp("planted"), PLANTED_PAGES)
    images = {name: memory_image.image(name, what, library) for name, what in (("idle", IDLE), ("busy", BUSY))}
    specs = (Spec(f"owners-{name}", memory=MEMORY, image=image) for name, image in images.items())
    with initramfs(connection, root, *specs) as running:
        yield running


def test_page_owners_match_the_idle_guest(samepaged: Samepaged, guests: list[InitramfsGuest], tmp_path: Path) -> None:
    found = compared(samepaged, guests[0], MACHINE, tmp_path)
    assert found.wrong == 0, str(found)
    assert found.rows > 8000
    assert found.files > 2000
    # The guest's kernel may make huge pages of small ones at any time.
    assert found.explained < found.rows / 10, str(found)


def test_page_owners_match_the_busy_guest(samepaged: Samepaged, guests: list[InitramfsGuest], tmp_path: Path) -> None:
    found = compared(samepaged, guests[1], MACHINE, tmp_path, BUSY_ONES)
    assert found.wrong == 0, str(found)
    assert found.rows > 8000
    assert found.explained < found.rows / 4, str(found)


def test_shared_library_pages_have_names(samepaged: Samepaged, guests: list[InitramfsGuest], tmp_path: Path) -> None:
    names = [guest.name for guest in guests]
    done = samepaged("sources", "--json", "--config", str(samepaged.config), *names)
    documents = {one["domain"]: one for one in json.loads(done.stdout)["domains"]}
    assert sorted(documents) == sorted(names)
    for one in documents.values():
        assert one["labelled_ratio"] >= 0.97
        (file,) = [file for file in one["files"] if file["path"] == PLANTED]
        assert file["pages"] == PLANTED_PAGES
        assert file["inter_sharing_pages"] == PLANTED_PAGES
        assert file["self_sharing_pages"] == 0
        (process,) = [process for process in one["processes"] if process["process"] == "tenant"]
        assert process["inter_sharing_pages"] >= PLANTED_PAGES
    for found, _ in owners(samepaged.config, tmp_path, *names).values():
        label = found.names.index(PLANTED)
        assert sorted(found.offsets[found.labels == label].tolist()) == [n * 4096 for n in range(PLANTED_PAGES)]
