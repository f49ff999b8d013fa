"""The tables of docs/analysis/study.md on page attribution."""

from __future__ import annotations

from typing import Any

from experiments import attribution_tables as tables
from experiments.contents import RepeatedContent
from experiments.matrix import MATRIX, SETUPS
from experiments.report import PAGE
from samepaged.analysis.study.attribution.involvement import attribution
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
    """Return the object of `samepaged study --json`, with the parts that these tables need."""
    found = attribution((one.domain, [one]) for one in guests)
    return {} if found is None else {"sources": found.document()}


def rows(table: str) -> dict[str, list[str]]:
    """Return the cells of each row by its first column."""
    lines = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {line[0]: line[1:] for line in lines[2:]}


def test_traces_without_attribution_have_no_table() -> None:
    assert tables.attributed_guests({"domains": []}, SETUPS) == []


def test_desktop_comes_first() -> None:
    found = tables.attributed_guests(study(*(answers(f"p-{setup}") for setup in SETUPS)), SETUPS)
    assert [one["domain"] for one in found] == ["p-desktop", "p-server", "p-plain"]


def test_only_64_bit_setup_guests_are_attributed() -> None:
    asked = {cell.name for cell in MATRIX if cell.attributed}
    assert asked == {f"{release}-amd64-{setup}" for release in ("bookworm", "bullseye") for setup in SETUPS}


def test_each_guest_has_a_row() -> None:
    assert rows(tables.guests([answers("one")]))["one"] == [
        "6.1.0-1-amd64",
        "100.0",
        "97.0 %",
        "3.9",
        "2.0",
    ]


def test_guest_without_kernel_is_shown() -> None:
    assert rows(tables.guests([answers("one", kernel=None)]))["one"][0] == "-"


def test_kinds_beside_the_papers_values() -> None:
    found = rows(tables.by_kind(tables.attributed_guests(study(answers("p-desktop")), SETUPS)))
    assert found["heap"] == ["50.0 % (25.0 %)", "over 50 %"]
    assert found["free"] == ["90.0 % (50.0 %)", "-"]


def test_negligible_kinds_are_left_out() -> None:
    found = rows(tables.by_kind(tables.attributed_guests(study(answers("p-desktop")), SETUPS)))
    assert found["stack"] == ["-", "less than 5 %"]
    assert "shmem" not in found


def test_combined_kinds_have_a_row() -> None:
    both = (owner("heap+anonymous", 560, 276), owner("library+private_file", 70, 30))
    found = rows(tables.by_kind(tables.attributed_guests(study(answers("p-desktop", combined_kinds=both)), SETUPS)))
    assert found["heap+anonymous"] == ["56.0 % (27.6 %)", "over 50 % (heap)"]
    assert found["library+private_file"] == ["7.0 % (3.0 %)", "43 % (libraries)"]


def firefox(*processes: Owner) -> str:
    found = tables.attributed_guests(study(answers("p-desktop", processes=processes)), SETUPS)
    return rows(tables.by_process(found))["Firefox, all of its processes"][0]


def test_combined_processes_have_a_range() -> None:
    assert firefox(owner("firefox-esr", 400, 40), owner("Web Content", 300, 60)) == "40.0 % to 70.0 % (10.0 %)"
    assert firefox(owner("firefox-esr", 400, 40)) == "40.0 % (4.0 %)"


def test_upper_bound_is_capped() -> None:
    assert firefox(owner("firefox-esr", 600, 40), owner("Web Content", 500, 60)) == "60.0 % or more (10.0 %)"


def test_libraries_and_files_have_separate_tables() -> None:
    found = tables.attributed_guests(study(answers("p-desktop")), SETUPS)
    assert rows(tables.by_file(found, libraries=True)) == {"libxul.so": ["40.0 % (8.0 %)", "the most of all"]}
    assert rows(tables.by_file(found, libraries=False)) == {"arch/x86/kvm/kvm.ko": ["9.0 % (0.9 %)"]}


def test_library_rows_ignore_the_directory() -> None:
    first = answers("p-desktop", files=(owner("/usr/lib/libm.so.6", 100, 50),))
    second = answers("q-server", files=(owner("/lib/libm.so.6", 200, 20),))
    found = tables.attributed_guests(study(first, second), SETUPS)
    assert rows(tables.by_file(found, libraries=True)) == {"libm.so.6": ["10.0 % (5.0 %)", "20.0 % (2.0 %)", "-"]}


def test_processes_beside_the_papers_values() -> None:
    found = tables.attributed_guests(
        study(answers("p-desktop"), answers("p-plain", processes=(owner("systemd", 100, 10),))), SETUPS
    )
    assert rows(tables.by_process(found)) == {
        "Firefox, all of its processes": ["48.0 % (10.0 %)", "-", "nearly half"],
        "firefox-esr": ["48.0 % (10.0 %)", "-", "-"],
        "systemd": ["-", "10.0 % (1.0 %)", "-"],
    }


def test_hidden_names_have_no_rows() -> None:
    found = tables.attributed_guests(study(answers("p-desktop", processes=None, files=None)), SETUPS)
    assert rows(tables.by_process(found)) == {}


def lines(*named: str, pages: tuple[int, ...] = (), more: int = 0) -> str:
    """Return the table's cell for a page with these owners."""
    one = answers(
        "one",
        most_copied=(CopiedPage(11, shared_with_others=False, owners=named, more_owners=more, owner_pages=pages),),
    )
    found = rows(tables.most_copied([(one, [RepeatedContent("one", 11, 0.01, "0xff")])]))
    assert found["one"][:4] == ["11", "0.0", "1.0 %", "0xff"]
    return found["one"][4]


def test_most_copied_pages_have_owners() -> None:
    assert lines("[heap]: Xvfb") == "`[heap]: Xvfb`"
    assert lines("[a]", "[b]", "[c]", "[d]") == "`[a]`; `[b]`; `[c]` and others"
    assert lines("[a]", more=1) == "`[a]` and others"


def test_most_copied_pages_have_owner_shares() -> None:
    assert lines("[heap]: Xvfb", "[free]", pages=(8, 3)) == "`[heap]: Xvfb` 73 %; `[free]` 27 %"
    assert lines("[heap]: Xvfb", "[free]", pages=(4000, 3)) == "`[heap]: Xvfb` 100 % and others"
    assert lines("[heap]: Xvfb", pages=(11,)) == "`[heap]: Xvfb`"
    assert lines("[heap]: Xvfb", pages=(4,), more=7) == "`[heap]: Xvfb` and others"


def test_few_copies_are_left_out() -> None:
    assert rows(tables.most_copied([(answers("one"), [RepeatedContent("one", 11, 0.009, "0xff")])])) == {}


def test_fill_is_matched_by_content() -> None:
    shown = rows(tables.most_copied([(answers("one"), [RepeatedContent("one", 12, 0.01, "0xff")])]))
    assert shown["one"][3] == "-"


def test_docs_page_has_attribution_tables() -> None:
    page = PAGE.read_text()
    assert all(page.count(f"<!-- measured: {name} -->") == 1 for name in (*TABLES, "most copied pages"))
