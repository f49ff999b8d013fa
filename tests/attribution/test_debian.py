"""Owners of all pages in whole Debian systems: a web server, a database, Python, and a desktop program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.attribution.debian import RELEASES, image
from tests.support.attribution.guests import debian
from tests.support.attribution.labels import compared

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged

MEMORY = 1024
# The guest is emulated, and the first run builds its image.
pytestmark = pytest.mark.timeout(1200)
# Guest processes that report the true page owners; they change during the report.
TELLERS = ("qemu-ga", "guest_owners")


@pytest.mark.parametrize("release", RELEASES)
def test_page_owners_match_the_guest(
    release: str, samepaged: Samepaged, connection: Any, root: Path, tmp_path: Path
) -> None:
    with debian(connection, root, f"owners-{release}", image(release), MEMORY) as guest:
        found = compared(samepaged, guest, ("q35", MEMORY << 20), tmp_path, TELLERS)
        done = samepaged("sources", "--json", "--config", str(samepaged.config), guest.name)
    print(release, found)
    assert found.wrong == 0, str(found)
    assert found.rows > 50_000
    assert found.explained < found.rows / 20, str(found)
    document = json.loads(done.stdout)
    processes = {one["process"] for one in document["processes"]}
    assert {"apache2", "Xvfb", "mousepad", "python3"} <= processes
    assert processes & {"mariadbd", "mysqld"}
    assert any(one["path"].startswith("/usr/lib/x86_64-linux-gnu/libc.so.6") for one in document["files"]) or any(
        "/libc-2." in one["path"] for one in document["files"]
    )
