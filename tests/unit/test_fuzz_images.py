"""What `make fuzz-sources` calls a finding, it finds: shown with readers that do what none should."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS, Unreadable
from samepaged.attribution.page_owners import PageOwners
from samepaged.attribution.ram_map import RamMap, RamRegion
from tests.fuzz.images.trial import Plan, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES = 64
GOOD = replace(PageOwners.unknown(PAGES, "", kernel="6.1.0"), note=None)
NO_PAGES = np.empty(0, dtype=np.int64)


class Reader:
    """An Analysis with given results."""

    def __init__(self, find: Callable[[], PageOwners]) -> None:
        self._find = find

    def open(self, *_: Any) -> str:
        return "opened"

    def profile(self, _: Any) -> bytes:
        return b"{}"

    def struct_page_pages(self, *_: Any) -> Any:
        return NO_PAGES, NO_PAGES

    def slab_and_table_pages(self, _: Any) -> Any:
        return NO_PAGES

    def attribute(self, _: Any) -> PageOwners:
        return self._find()


@pytest.fixture(autouse=True)
def no_garbage_is_collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of all that other tests have left, it takes long, and a signal that comes meanwhile is lost."""
    monkeypatch.setattr(gc, "collect", lambda: 0)
    gc.disable()
    yield
    gc.enable()


def outcome(find: Callable[[], PageOwners]) -> str:
    layout = RamMap((RamRegion(0, PAGES * PAGE_SIZE),))
    plan = Plan(b"{}", None, cold=False, names=True, blocks=np.ones(1, dtype=np.bool_))
    words = np.zeros((PAGES, PAGE_WORDS), dtype=np.uint64)
    return attempt(words, layout, NO_PAGES, plan, Reader(find)).kind


def raising(error: BaseException) -> Callable[[], PageOwners]:
    def find() -> PageOwners:
        raise error

    return find


def hang() -> PageOwners:
    while True:
        pass


def test_valid_and_refused_images_are_no_fault() -> None:
    assert outcome(lambda: GOOD) == "attributed"
    assert outcome(lambda: replace(GOOD, note="slabs: 8 bytes at 0x0")) == "partly"
    assert outcome(raising(Unreadable("no Linux"))) == "refused"


@pytest.mark.parametrize(
    ("find", "kind"),
    [
        (raising(KeyError("what nobody foresaw")), "crash"),
        (raising(MemoryError()), "memory"),
        (lambda: replace(GOOD, note="slabs: MemoryError"), "memory"),
        (lambda: replace(GOOD, kinds=GOOD.kinds + np.uint8(200)), "lie"),
        (lambda: replace(GOOD, labels=GOOD.labels + np.int32(1)), "lie"),
        (lambda: replace(GOOD, offsets=GOOD.offsets[:-1]), "lie"),
        (lambda: replace(GOOD, kernel=None), "lie"),
        (hang, "hang"),
    ],
)
def test_image_fuzzer_finds_faults(find: Callable[[], PageOwners], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if find is hang:
        monkeypatch.setattr("tests.fuzz.images.trial.SECONDS", 0.2)
    assert outcome(find) == kind
