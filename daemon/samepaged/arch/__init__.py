"""Constants of a processor architecture: page size, physical memory map, page-table format. Each architecture has a
module.

KVM guests have the architecture of their host, so there is one page size.
"""

from samepaged.arch.x86_64 import PAGE_SHIFT, PAGE_SIZE

__all__ = ["PAGE_SHIFT", "PAGE_SIZE"]
