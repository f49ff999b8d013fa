"""The sharing model of Barker et al. (USENIX ATC 2012, section 3): arrays in, frozen dataclasses out."""

from samepaged.sharing.digest import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest, count_all, stable
from samepaged.sharing.model import GroupSharing, GuestSharing, Member, PairSharing, SharingReport, analyse
from samepaged.sharing.page_sizes import PageSizeSharing, by_page_size, coarsen

__all__ = [
    "ABSENT",
    "FIRST_HASH",
    "SWAPPED",
    "ZERO",
    "Contents",
    "GroupSharing",
    "GuestSharing",
    "Member",
    "PageDigest",
    "PageSizeSharing",
    "PairSharing",
    "SharingReport",
    "analyse",
    "by_page_size",
    "coarsen",
    "count_all",
    "stable",
]
