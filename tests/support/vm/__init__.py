"""The lab host: a Debian under QEMU whose kernel has soft-dirty bits and whose KVM runs guests, for tests/vm."""
