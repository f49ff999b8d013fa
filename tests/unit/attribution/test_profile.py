from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.kernel import Kernel
from samepaged.attribution.linux.profile import Profile
from tests.unit.attribution.builders import Linux, linux, types


def opened(guest: Linux, btf: bytes | None = None) -> Profile:
    return Kernel.open(guest.machine.ram(), [guest.note_page], btf=btf).profile


PLAIN = linux()
PROFILE = opened(PLAIN)
DOCUMENT = json.dumps(PROFILE.to_document())


def without_types() -> Linux:
    """Return a guest with the symbols of BTF, but without the data."""
    guest = linux()
    guest.machine.put((4 << 20) + 0x10000, bytes(8))
    return guest


def test_profile_has_the_schema_names() -> None:
    assert PROFILE.has_types
    assert (PROFILE.offset("task_struct.tasks"), PROFILE.size("page"), PROFILE.enumerator("PG_slab")) == (16, 64, 9)
    assert PROFILE.symbol("init_task") == PLAIN.symbols["init_task"]
    assert not PROFILE.has("filler_1")
    assert not PROFILE.has("mm_struct.pgd")


def test_first_existing_name_is_used() -> None:
    assert PROFILE.offset("folio.index", "page.index", "page.flags") == 16
    assert PROFILE.symbol("contig_page_data", "init_task") == PLAIN.symbols["init_task"]
    for ask in (PROFILE.offset, PROFILE.size, PROFILE.enumerator, PROFILE.symbol):
        with pytest.raises(Unreadable, match=r"folio\.nothing or folio\.none"):
            ask("folio.nothing", "folio.none")


def test_callers_include_function_parts() -> None:
    text = PLAIN.symbols["_stext"]
    assert [(start - text, end - text, name) for start, end, name in PROFILE.callers] == [
        (0x100, 0x180, "copy_process"),
        (0x180, 0x200, "copy_process"),
        (0x200, 0x240, "vmap"),
    ]


def test_profile_survives_kaslr() -> None:
    elsewhere = linux(slide=64 << 20)
    kept = Profile.from_document(json.loads(DOCUMENT)).relocated(elsewhere.symbols["_stext"])
    assert kept == opened(elsewhere)
    assert kept.symbol("init_task") == PROFILE.symbol("init_task") + (64 << 20)
    assert kept.to_document() == json.loads(DOCUMENT)


def test_per_cpu_offsets_are_not_relocated() -> None:
    profile = replace(PROFILE, symbols=PROFILE.symbols | {"cpu_number": 0x1C0})
    assert profile.relocated(profile.stext + (8 << 20)).symbol("cpu_number") == 0x1C0


def test_impossible_stext_is_refused() -> None:
    for stext in (0, PROFILE.stext + (1 << 30)):
        with pytest.raises(Unreadable):
            PROFILE.relocated(stext)


def test_profile_without_btf() -> None:
    profile = opened(without_types())
    assert not profile.has_types
    assert (profile.offsets, profile.sizes, profile.enumerators) == ({"page.flags": 0}, {"page": 64}, {})
    assert profile.symbols == PROFILE.symbols


def test_external_btf_is_used() -> None:
    assert opened(without_types(), btf=types().raw()) == PROFILE


def test_btf_of_another_kernel_is_refused() -> None:
    other = types().raw().replace(b"\0page\0", b"\0pAge\0")
    grown = other[:-1] + b"\0page\0"
    assert opened(without_types(), btf=grown[: len(other)]).has_types  # it does not contradict VMCOREINFO
    guest = without_types()
    at = guest.note_page * PAGE_SIZE
    note = bytes(guest.machine.bytes[at : at + PAGE_SIZE])
    guest.machine.put(at, note.replace(b"SIZE(page)=64", b"SIZE(page)=56"))
    assert not opened(guest, btf=types().raw()).has_types
    assert not opened(guest, btf=b"no BTF").has_types


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "short"},
        {"fingerprint": 3},
        {"typed": 1},
        {"offsets": None},
        {"offsets": {"page.flags": -1}},
        {"offsets": {"page.flags": True}},
        {"offsets": {"page.flags": 1.0}},
        {"offsets": {"x" * 200: 1}},
        {"sizes": {"page": 1 << 40}},
        {"sizes": {str(number): 1 for number in range(2000)}},
        {"enumerators": {"PG_slab": 1 << 64}},
        {"symbols": {"init_task": 1 << 64}},
        {"callers": {}},
        {"callers": [[1, 2]]},
        {"callers": [[1, 2, "vmap"]]},
        {"callers": [[PROFILE.stext + 2, PROFILE.stext + 1, "vmap"]]},
        {"callers": [[PROFILE.stext, PROFILE.stext + 2, 7]]},
        {"callers": [[PROFILE.stext, PROFILE.stext + 2, "a"], [PROFILE.stext + 1, PROFILE.stext + 3, "b"]]},
        {"more": 1},
    ],
)
def test_altered_profile_document_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Unreadable):
        Profile.from_document(json.loads(DOCUMENT) | change)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(DOCUMENT))), json_values) | json_values)
@example({})
def test_arbitrary_document_is_profile_or_unreadable(change: object) -> None:
    document = json.loads(DOCUMENT) | change if isinstance(change, dict) else change
    try:
        profile = Profile.from_document(document)
    except Unreadable:
        assert change != {}
        return
    assert Profile.from_document(json.loads(json.dumps(profile.to_document()))) == profile


def test_profile_has_the_build_fingerprint() -> None:
    assert PROFILE.fingerprint == opened(linux(slide=32 << 20)).fingerprint
    assert PROFILE.fingerprint != opened(linux("6.1.0-other")).fingerprint
    assert replace(PROFILE, fingerprint="0" * 64) != PROFILE
