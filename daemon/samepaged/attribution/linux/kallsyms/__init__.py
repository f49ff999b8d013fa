"""The kallsyms tables of a Linux kernel: symbols, packed names, and the search for tables at an unknown address."""
