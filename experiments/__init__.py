"""The field: real Debian guests under QEMU, whose memory is traced, and the paper's study of it (docs/study.md)."""
