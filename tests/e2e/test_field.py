"""The field study in small: two busybox guests with known contents, through the complete code path."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from experiments.attribution_tables import attributed_guests, by_file
from experiments.cell_run import FieldError, Place, outcomes, run_cell
from experiments.guest import Boot
from experiments.matrix import Cell
from experiments.tables import course, inter
from experiments.tracing import SEED, Samepaged, samepaged, write_config
from samepaged.memory.hashing import best_hasher
from samepaged.traces.parquet import read
from samepaged.traces.store import TraceStore
from tests.support import images
from tests.support.guests import CMDLINE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.libvirtd import Libvirtd

COMMON = (100_000_000, 600)
OWN = {"field-a": (200_000_000, 300), "field-b": (300_000_000, 200)}
COPIES = 150
# Page attribution runs for the first only, as if the second had a 32-bit kernel.
ARCHITECTURES = {"field-a": "amd64", "field-b": "i386"}

SCRIPT = """\
b=/bin/busybox
plant() {{ $b seq $1 999999999 | $b head -c $(($2 * 4096)) >>/tmp/$3; }}
plant {common[0]} {common[1]} common
plant {own[0]} {own[1]} own
plant 400000000 1 block
echo; echo "field: mark 1"
i=0
while [ $i -lt {copies} ]; do $b cat /tmp/block >>/tmp/copies; i=$((i + 1)); done
$b rm /tmp/block
$b sleep 1
echo; echo "field: a note"; echo "field: done"
"""


def planted(first: int, pages: int) -> NDArray[np.uint64]:
    """Return the hashes of the pages that `plant` writes."""
    text = b"".join(b"%d\n" % number for number in range(first, first + 410 * pages))[: pages * 4096]
    found = np.zeros(pages, dtype=np.uint64)
    best_hasher().hash_buffer(text, found, 4096, SEED)
    return found


@pytest.fixture(scope="module")
def place(libvirtd: Libvirtd, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Results of the two cells, run one after the other."""
    place = Place(tmp_path_factory.mktemp("field"))
    tracer = Samepaged(write_config(root / "field", libvirtd.uri, ("2KiB", "8KiB")))
    for name, own in OWN.items():
        image = images.busybox_image(name, SCRIPT.format(common=COMMON, own=own, copies=COPIES))
        boot = Boot(images.kernel(), image, CMDLINE.format(""))
        cell = Cell(
            name, "busybox", ARCHITECTURES[name], "plain", ("setups",), "course", memory=96, timeout_seconds=240
        )
        run_cell(cell, boot, place, libvirtd.uri, tracer, threading.Event())
    return place


def traces(place: Place, kind: str) -> dict[str, list[dict[int, int]]]:
    """By domain, its traces by time: how many pages have each content."""
    found: dict[str, list[dict[int, int]]] = {}
    read_all = [trace for path in TraceStore(place.traces(kind)).files() for trace in read(path)]
    for trace in sorted(read_all, key=lambda one: one.info.scanned_at):
        contents = dict(zip(trace.hashes.tolist(), trace.pages.tolist(), strict=True))
        found.setdefault(trace.info.domain, []).append(contents)
    return found


def said(place: Place, name: str, command: str) -> dict[str, Any]:
    """Return samepaged's output at the guest's last such scan."""
    lines = (place.cell(name) / f"{command}.jsonl").read_text().splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_traces_match_guest_contents(place: Place) -> None:
    found = {name: last for name, (last,) in traces(place, "setups").items()}
    assert set(found) == set(OWN)
    common = planted(*COMMON).tolist()
    (block,) = planted(400_000_000, 1).tolist()
    for name, own in OWN.items():
        other = found[next(one for one in OWN if one != name)]
        mine = planted(*own).tolist()
        assert all(content in found[name] for content in (*common, *mine)), name
        assert not any(content in other for content in mine), name
        assert found[name][block] >= COPIES, name


def test_series_has_intermediate_trace(place: Place) -> None:
    (block,) = planted(400_000_000, 1).tolist()
    for name, (mark, last) in traces(place, "course").items():
        # How far the guest has come by the time it is suspended is its own business, and so
        # is whether one copy more is on its way through a buffer of its kernel just then.
        assert mark[block] > 0, name
        assert last[block] >= COPIES, name
    assert [(one.name, one.marks, one.notes) for one in outcomes(place)] == [
        (name, 1, ("a note",)) for name in sorted(OWN)
    ]


def test_study_agrees_with_scans(place: Place) -> None:
    study: dict[str, Any] = json.loads(samepaged("study", "--json", place.traces("setups")))
    found = {name: last for name, (last,) in traces(place, "setups").items()}
    (pair,) = study["pairs"]
    first, second = (found[name] for name in pair["domains"])
    assert pair["inter_sharing_pages"]["avg"] == len(first.keys() & second.keys()) >= COMMON[1]
    for guest in study["domains"]:
        own = guest["self_sharing_pages"]["avg"]
        if ARCHITECTURES[guest["domain"]] == "amd64":
            assert own == said(place, guest["domain"], "sources")["self_sharing_pages"] >= COPIES - 1
            continue
        (scanned,) = said(place, guest["domain"], "scans")["domains"]
        assert own == scanned["duplicate_pages"] >= COPIES - 1
        assert guest["zero_pages"]["avg"] + scanned["absent_pages"] >= scanned["zero_pages"]
    sizes = {one["page_size"] for one in study["page_sizes"]}
    assert sizes == {2048, 4096, 8192}
    assert "field-a / field-b" in inter(study)
    assert "| field-b | 1 |" in course(study)


def test_last_trace_has_attribution(place: Place) -> None:
    found = attributed_guests(json.loads(samepaged("study", "--json", place.traces("setups"))), ("plain",))
    assert [one["domain"] for one in found] == ["field-a"]
    table = by_file(found, libraries=False)
    assert "/tmp/copies" in table  # noqa: S108  # in the guest
    copied = said(place, "field-a", "sources")["most_copied"]
    assert any(one["copies"] >= COPIES and one["owners"][0].startswith("[copies") for one in copied)


def test_aborted_cell_leaves_no_trace(libvirtd: Libvirtd, root: Path, tmp_path: Path) -> None:
    place = Place(tmp_path)
    image = images.busybox_image(
        "field-lost", 'echo; echo "field: mark 1"; /bin/busybox sleep 10; /bin/busybox poweroff -f'
    )
    cell = Cell("field-lost", "busybox", "amd64", "plain", ("setups",), "course", memory=96, timeout_seconds=240)
    tracer = Samepaged(write_config(root / "field", libvirtd.uri, ()))
    with pytest.raises(FieldError, match="field-lost"):
        run_cell(cell, Boot(images.kernel(), image, CMDLINE.format("")), place, libvirtd.uri, tracer, threading.Event())
    assert not place.traces("setups").exists()
    assert not place.traces("course").exists()
    assert not place.outcome(cell).exists()
