"""A study as one JSON object. Keys may be added, never renamed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from samepaged.traces.collisions import expected_self_collisions, expected_shared_collisions
from samepaged.traces.trace import utc

if TYPE_CHECKING:
    from samepaged.analysis.study.groups import GroupSharing
    from samepaged.analysis.study.labels import PlatformSharing
    from samepaged.analysis.study.pairs import PairSharing
    from samepaged.analysis.study.self_sharing import SelfSharing
    from samepaged.analysis.study.stability import Stability
    from samepaged.analysis.study.study import Study

__all__ = ["document"]


def document(study: Study) -> dict[str, Any]:
    """Return the JSON object. Counts are in pages of `page_size` bytes, ratios from 0 to 1."""
    found: dict[str, Any] = {
        "schema": 1,
        "page_size": study.page_size,
        "hash_bits": study.hash_bits,
        "sample": study.sample,
        "traces": study.traces,
        "pairs_limit": study.max_pairs,
        "seed": study.seed,
        "domains": [_guest(guest, study.hash_bits) for guest in study.guests],
        "pairs": [_pair(pair) for pair in study.pairs],
        "groups": [_group(group) for group in study.groups],
        "page_sizes": [
            {
                "domain": one.domain,
                "page_size": one.page_size,
                "traces": one.traces,
                "self_sharing_pages": one.self_pages,
                "self_sharing_ratio": one.self_ratio,
            }
            for one in study.page_sizes
        ],
        "stability": [_stability(one) for one in study.stability],
    }
    if study.hash_bits < 64:  # noqa: PLR2004 - whole hashes do not collide
        distinct = {guest.domain: round(guest.distinct.avg) for guest in study.guests}
        for pair in found["pairs"]:
            first, second = (distinct[name] for name in pair["domains"])
            pair["inter_sharing_collisions_pages"] = expected_shared_collisions(first, second, study.hash_bits)
    if study.platforms is not None:
        found["platforms"] = _platforms(study.platforms)
    if study.attribution is not None:
        found["sources"] = study.attribution.document()
    return found


def _guest(guest: SelfSharing, hash_bits: int) -> dict[str, Any]:
    found = {
        "domain": guest.domain,
        "host": guest.host,
        "traces": guest.traces,
        "first_scanned": utc(guest.first),
        "last_scanned": utc(guest.last),
        "memory_pages": guest.memory.document(),
        "self_sharing_pages": guest.pages.document(),
        "self_sharing_ratio": guest.ratio.document(),
        "zero_pages": guest.zeros.document(),
        "distinct_pages": guest.distinct.document(),
    }
    if hash_bits < 64:  # noqa: PLR2004 - whole hashes do not collide
        expected = expected_self_collisions(round(guest.distinct.avg), hash_bits)
        found["self_sharing_collisions_pages"] = None if math.isinf(expected) else expected
    return found


def _pair(pair: PairSharing) -> dict[str, Any]:
    return {
        "domains": list(pair.domains),
        "trace_pairs": pair.trace_pairs,
        "exact": pair.exact,
        "memory_pages": pair.memory_pages,
        "inter_sharing_pages": pair.inter_pages.document(),
        "inter_sharing_ratio": pair.inter_ratio.document(),
        "self_sharing_pages": pair.self_pages,
        "self_over_total_ratio": pair.self_over_total,
        "with_zero_pages": {
            "self_sharing_pages": pair.self_with_zeros,
            "inter_sharing_pages": pair.inter_with_zeros,
        },
    }


def _group(group: GroupSharing) -> dict[str, Any]:
    return {
        "guests": group.guests,
        "groups": group.groups,
        "possible_groups": group.possible,
        "exact": group.exact,
        "memory_pages": group.memory_pages,
        "self_sharing_pages": group.self_pages,
        "inter_sharing_pages": group.inter_pages.document(),
        "inter_sharing_ratio": group.inter_ratio.document(),
        "total_sharing_ratio": group.total_ratio.document(),
        "inter_over_total_ratio": group.inter_over_total,
    }


def _stability(one: Stability) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "lag_traces": one.lag,
        "lag_seconds": one.seconds,
        "trace_pairs": one.pairs,
        "distinct_pages_ratio": one.content_ratio and one.content_ratio.document(),
        "self_sharing_ratio": one.sharing_ratio and one.sharing_ratio.document(),
    }


def _platforms(found: PlatformSharing) -> dict[str, Any]:
    return {
        "self_sharing": [
            {
                "platform": one.platform,
                "setup": one.setup,
                "domains": one.guests,
                "self_sharing_pages": one.self_pages,
                "self_sharing_ratio": one.self_ratio,
            }
            for one in found.self_sharing
        ],
        "pairs": [
            {
                "platforms": list(one.platforms),
                "setup": one.setup,
                "pairs": one.pairs,
                "inter_sharing_pages": one.inter_pages,
                "self_sharing_pages": one.self_pages,
                "self_over_total_ratio": one.self_over_total,
            }
            for one in found.pairs
        ],
        "unlabelled": list(found.unlabelled),
    }
