"""Page attribution: the owners of a guest's pages, from the data structures of its Linux kernel, read on the host."""
