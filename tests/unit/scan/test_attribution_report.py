"""The service's page attribution reports, and their removal after a change of the configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from samepaged.attribution.document import attribution_document
from samepaged.attribution.page_owners import KIND, PageOwners
from samepaged.attribution.report import AttributionReport, report_attribution
from samepaged.config import SourcesConfig
from samepaged.scan import attribution
from samepaged.scan.attribution import attribution_reports, visible_attribution
from samepaged.scan.snapshot import GuestAttribution
from samepaged.sharing import Contents, PageDigest
from tests.support.results import guest_id

if TYPE_CHECKING:
    import pytest

DIGEST = np.array([70, 70, 71, 72, 0, 0], dtype=np.uint64)
OWNERSHIP = PageOwners(
    kinds=np.full(len(DIGEST), KIND["library"], dtype=np.uint8),
    labels=np.zeros(len(DIGEST), dtype=np.int32),
    offsets=np.zeros(len(DIGEST), dtype=np.int64),
    modes=np.full(len(DIGEST), 1 << 5, dtype=np.uint16),
    names=("/opt/secret.so",),
    used_pages=np.arange(len(DIGEST), dtype=np.int32),
    used_by=np.zeros(len(DIGEST), dtype=np.int32),
    processes=("secretd",),
    kernel="6.1.0",
)
WEB = guest_id("web")
NOBODY_ELSE = np.zeros(3, dtype=np.bool_)


def scanned(name: str, group: str, pages: np.ndarray[Any, Any], ownership: PageOwners | None = None) -> Any:
    digest = PageDigest(pages, 4096)
    return SimpleNamespace(
        ownership=ownership,
        digest=None if ownership is None else digest,
        scan=SimpleNamespace(name=name, group=group),
        contents=Contents.of(digest),
    )


def found() -> AttributionReport:
    return report_attribution("web", OWNERSHIP, DIGEST, NOBODY_ELSE, names=True)


def test_attribution_counts_sharing_within_group() -> None:
    older, foreign = np.array([72, 90], dtype=np.uint64), np.array([71, 70], dtype=np.uint64)
    everybody = {
        guest_id("web"): scanned("web", "a", DIGEST, OWNERSHIP),
        guest_id("db"): scanned("db", "a", older),
        guest_id("alien"): scanned("alien", "b", foreign),
    }
    answers = attribution_reports(everybody, names=True)
    assert list(answers) == [guest_id("web")]
    web = answers[guest_id("web")]
    assert (web.self_sharing_pages, web.inter_sharing_pages) == (1, 1)


def test_out_of_memory_skips_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(name: str, *rest: Any, **named: Any) -> AttributionReport:
        if name == "web":
            raise MemoryError
        return report_attribution(name, *rest, **named)

    monkeypatch.setattr(attribution, "report_attribution", out_of_memory)
    everybody = {guest_id(name): scanned(name, "a", DIGEST, OWNERSHIP) for name in ("web", "db")}
    assert list(attribution_reports(everybody, names=False)) == [guest_id("db")]


def test_reload_removes_withheld_names() -> None:
    shown = {WEB: GuestAttribution(found(), 1.0)}
    named = SourcesConfig(enabled=True, names=True)
    assert visible_attribution(shown, named) is shown
    left = visible_attribution(shown, named.model_copy(update={"names": False}))
    document = attribution_document(left[WEB].report)
    assert "secret" in str(attribution_document(shown[WEB].report))
    assert "secret" not in str(document)
    assert cast("list[dict[str, Any]]", document["kinds"])[0]["kind"] == "library"
    assert visible_attribution(shown, named.model_copy(update={"enabled": False})) == {}
