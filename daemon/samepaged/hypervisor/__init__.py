"""The protocols `Hypervisor` and `Domain`, and their libvirt implementation. No other package imports libvirt."""
