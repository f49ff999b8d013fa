"""One guest's page attribution as the JSON object of `samepaged sources --json`. Keys may be added, never renamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from samepaged.arch import PAGE_SIZE
from samepaged.escape import valid

if TYPE_CHECKING:
    from samepaged.attribution.report import AttributionReport, Owner

__all__ = ["SCHEMA", "sources_document"]

SCHEMA: Final = 1


def sources_document(answers: AttributionReport) -> dict[str, Any]:
    """`answers` as an object for `json.dumps`: counts in pages of 4096 bytes, ratios from 0 to 1. `sharing_pages` of an
    owner is the sharing that it is involved in, which does not add up over owners; `split_pages` does. `together` has
    some kinds as one ("heap+anonymous"). `processes` and `files` are null where names are kept back.
    """
    return {
        "schema": SCHEMA,
        "domain": valid(answers.domain),
        "kernel": None if answers.kernel is None else valid(answers.kernel),
        "page_size": PAGE_SIZE,
        "memory_pages": answers.memory_pages,
        "in_use_pages": answers.in_use_pages,
        "labelled_ratio": answers.labelled_ratio,
        "missing_pages": answers.missing_pages,
        "note": None if answers.note is None else valid(answers.note),
        "self_sharing_pages": answers.self_sharing_pages,
        "inter_sharing_pages": answers.inter_sharing_pages,
        "sharing_pages": answers.sharing_pages,
        "in_use_self_sharing_pages": answers.in_use_self_sharing_pages,
        "kinds": [_owner("kind", one) for one in answers.kinds],
        "together": [_owner("kinds", one) for one in answers.together],
        "processes": None if answers.processes is None else [_owner("process", one) for one in answers.processes],
        "files": None if answers.files is None else [_owner("path", one) for one in answers.files],
        "most_copied": [
            {
                "copies": one.copies,
                "others": one.others,
                "owners": [valid(line) for line in one.owners],
                "owner_pages": list(one.pages),
                "more_owners": one.more_owners,
            }
            for one in answers.most_copied
        ],
    }


def _owner(what: str, one: Owner) -> dict[str, Any]:
    return {
        what: valid(one.name),
        "pages": one.pages,
        "sharing_pages": one.sharing_pages,
        "self_sharing_pages": one.self_sharing_pages,
        "inter_sharing_pages": one.inter_sharing_pages,
        "split_pages": one.split_pages,
    }
