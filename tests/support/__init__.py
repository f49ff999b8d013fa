"""Real guests for the tests, the demo and the benchmarks: kernel, images, a private libvirtd, and domains."""
