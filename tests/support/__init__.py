"""Real guests for the tests, the demo and the benchmarks: kernel, images, a libvirtd of one's own, domains."""
