"""The lab host: a Debian under QEMU for tests/vm. Its kernel has soft-dirty bits and its KVM runs guests."""
