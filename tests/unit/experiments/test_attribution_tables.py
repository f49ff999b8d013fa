"""The tables of docs/analysis/study.md about whose pages are shared."""

from __future__ import annotations

from typing import Any

from experiments import attribution_tables as tables
from experiments.contents import Repeated
from experiments.matrix import MATRIX, SETUPS
from experiments.report import PAGE
from samepaged.analysis.study.attribution.involvement import sources
from samepaged.attribution.report import AttributionReport, CopiedPage, Owner

MIB = 256  # pages
TABLES = ("sources", "sources by kind", "sources by library", "sources by file", "sources by process")


def owner(name: str, involved: int, split: float = 0.0) -> Owner:
    return Owner(name, 1000, involved, 0, split)


def answers(name: str, **changed: Any) -> AttributionReport:
    told: dict[str, Any] = {
        "domain": name,
        "kernel": "6.1.0-1-amd64",
        "memory_pages": 1024 * MIB,
        "in_use_pages": 100 * MIB,
        "labelled_ratio": 0.97,
        "self_sharing_pages": 1000,
        "in_use_self_sharing_pages": 512,
        "inter_sharing_pages": 0,
        "kinds": (owner("free", 900, 500), owner("heap", 500, 250), owner("library", 400, 80), owner("shmem", 4)),
        "processes": (owner("firefox-esr", 480, 100), owner("sshd", 4)),
        "files": (
            owner("/usr/lib/firefox-esr/libxul.so", 400, 80),
            owner("/usr/lib/modules/6.1.0-1-amd64/kernel/arch/x86/kvm/kvm.ko", 90, 9),
        ),
        "most_copied": (CopiedPage(11, shared_with_others=False, owners=("[a]", "[b]", "[c]", "[d]"), more_owners=2),),
    }
    return AttributionReport(**(told | changed))


def study(*guests: AttributionReport) -> dict[str, Any]:
    """The object of `samepaged study --json`, as far as these tables need it."""
    found = sources((one.domain, [one]) for one in guests)
    return {} if found is None else {"sources": found.document()}


def rows(table: str) -> dict[str, list[str]]:
    """What a reader finds in each row, by its first column."""
    lines = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {line[0]: line[1:] for line in lines[2:]}


def test_traces_that_do_not_tell_whose_their_pages_are_give_no_table() -> None:
    assert tables.known({"domains": []}, SETUPS) == []


def test_the_desktop_comes_first_as_it_is_what_the_paper_has() -> None:
    found = tables.known(study(*(answers(f"p-{setup}") for setup in SETUPS)), SETUPS)
    assert [one["domain"] for one in found] == ["p-desktop", "p-server", "p-plain"]


def test_only_guests_with_a_64_bit_kernel_are_asked_and_only_those_of_the_setups() -> None:
    asked = {cell.name for cell in MATRIX if cell.sources}
    assert asked == {f"{release}-amd64-{setup}" for release in ("bookworm", "bullseye") for setup in SETUPS}


def test_each_guest_has_a_row_with_what_is_known_of_it() -> None:
    assert rows(tables.guests([answers("one")]))["one"] == [
        "6.1.0-1-amd64",
        "100.0",
        "97.0 %",
        "3.9",
        "2.0",
    ]


def test_a_guest_without_a_kernel_that_is_known_is_shown_all_the_same() -> None:
    assert rows(tables.guests([answers("one", kernel=None)]))["one"][0] == "-"


def test_kinds_have_involvement_and_split_beside_what_the_paper_says() -> None:
    found = rows(tables.by_kind(tables.known(study(answers("p-desktop")), SETUPS)))
    assert found["heap"] == ["50.0 % (25.0 %)", "over 50 %"]
    assert found["free"] == ["90.0 % (50.0 %)", "-"]


def test_kinds_of_next_to_no_sharing_have_no_row_unless_the_paper_names_them() -> None:
    found = rows(tables.by_kind(tables.known(study(answers("p-desktop")), SETUPS)))
    assert found["stack"] == ["-", "less than 5 %"]
    assert "shmem" not in found


def test_kinds_that_the_paper_takes_for_one_are_told_together() -> None:
    both = (owner("heap+anonymous", 560, 276), owner("library+private_file", 70, 30))
    found = rows(tables.by_kind(tables.known(study(answers("p-desktop", combined_kinds=both)), SETUPS)))
    assert found["heap+anonymous"] == ["56.0 % (27.6 %)", "over 50 % (heap)"]
    assert found["library+private_file"] == ["7.0 % (3.0 %)", "43 % (libraries)"]


def firefox(*processes: Owner) -> str:
    found = tables.known(study(answers("p-desktop", processes=processes)), SETUPS)
    return rows(tables.by_process(found))["Firefox, all of its processes"][0]


def test_processes_of_one_program_are_involved_in_as_much_as_one_of_them_at_least_and_in_the_sum_at_most() -> None:
    assert firefox(owner("firefox-esr", 400, 40), owner("Web Content", 300, 60)) == "40.0 % to 70.0 % (10.0 %)"
    assert firefox(owner("firefox-esr", 400, 40)) == "40.0 % (4.0 %)"


def test_where_the_sum_is_more_than_all_there_is_no_upper_bound() -> None:
    assert firefox(owner("firefox-esr", 600, 40), owner("Web Content", 500, 60)) == "60.0 % or more (10.0 %)"


def test_libraries_and_other_files_have_tables_of_their_own() -> None:
    found = tables.known(study(answers("p-desktop")), SETUPS)
    assert rows(tables.by_file(found, libraries=True)) == {"libxul.so": ["40.0 % (8.0 %)", "the most of all"]}
    assert rows(tables.by_file(found, libraries=False)) == {"arch/x86/kvm/kvm.ko": ["9.0 % (0.9 %)"]}


def test_a_library_that_releases_have_in_different_directories_has_one_row() -> None:
    first = answers("p-desktop", files=(owner("/usr/lib/libm.so.6", 100, 50),))
    second = answers("q-server", files=(owner("/lib/libm.so.6", 200, 20),))
    found = tables.known(study(first, second), SETUPS)
    assert rows(tables.by_file(found, libraries=True)) == {"libm.so.6": ["10.0 % (5.0 %)", "20.0 % (2.0 %)", "-"]}


def test_processes_are_beside_those_that_the_paper_names() -> None:
    found = tables.known(
        study(answers("p-desktop"), answers("p-plain", processes=(owner("systemd", 100, 10),))), SETUPS
    )
    assert rows(tables.by_process(found)) == {
        "Firefox, all of its processes": ["48.0 % (10.0 %)", "-", "nearly half"],
        "firefox-esr": ["48.0 % (10.0 %)", "-", "-"],
        "systemd": ["-", "10.0 % (1.0 %)", "-"],
    }


def test_names_that_were_kept_back_give_rows_to_nobody() -> None:
    found = tables.known(study(answers("p-desktop", processes=None, files=None)), SETUPS)
    assert rows(tables.by_process(found)) == {}


def lines(*named: str, pages: tuple[int, ...] = (), more: int = 0) -> str:
    """What the table says of a page of these owners."""
    one = answers(
        "one",
        most_copied=(CopiedPage(11, shared_with_others=False, owners=named, more_owners=more, owner_pages=pages),),
    )
    found = rows(tables.most_copied([(one, [Repeated("one", 11, 0.01, "0xff")])]))
    assert found["one"][:4] == ["11", "0.0", "1.0 %", "0xff"]
    return found["one"][4]


def test_the_most_copied_pages_say_whose_they_are() -> None:
    assert lines("[heap]: Xvfb") == "`[heap]: Xvfb`"
    assert lines("[a]", "[b]", "[c]", "[d]") == "`[a]`; `[b]`; `[c]` and others"
    assert lines("[a]", more=1) == "`[a]` and others"


def test_the_most_copied_pages_say_which_part_is_whose_where_all_owners_are_known() -> None:
    assert lines("[heap]: Xvfb", "[free]", pages=(8, 3)) == "`[heap]: Xvfb` 73 %; `[free]` 27 %"
    assert lines("[heap]: Xvfb", "[free]", pages=(4000, 3)) == "`[heap]: Xvfb` 100 % and others"
    assert lines("[heap]: Xvfb", pages=(11,)) == "`[heap]: Xvfb`"
    assert lines("[heap]: Xvfb", pages=(4,), more=7) == "`[heap]: Xvfb` and others"


def test_pages_with_few_copies_are_not_among_the_most_copied() -> None:
    assert rows(tables.most_copied([(answers("one"), [Repeated("one", 11, 0.009, "0xff")])])) == {}


def test_what_fills_another_content_is_not_said_of_this_one() -> None:
    shown = rows(tables.most_copied([(answers("one"), [Repeated("one", 12, 0.01, "0xff")])]))
    assert shown["one"][3] == "-"


def test_the_page_in_the_docs_has_a_place_for_each_of_these_tables() -> None:
    page = PAGE.read_text()
    assert all(page.count(f"<!-- measured: {name} -->") == 1 for name in (*TABLES, "most copied pages"))
