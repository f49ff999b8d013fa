"""The sharing model of Barker et al. (USENIX ATC 2012, section 3): arrays in, frozen dataclasses out."""

from samepaged.sharing.digest import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest
from samepaged.sharing.model import GroupSharing, GuestSharing, Member, PairSharing, SharingReport, analyse

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
    "PairSharing",
    "SharingReport",
    "analyse",
]
