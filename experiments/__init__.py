"""Study on real Debian guests under QEMU: their traces, and docs/analysis/study.md."""
