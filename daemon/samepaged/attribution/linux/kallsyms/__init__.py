"""The kallsyms tables of a Linux kernel: symbols, their packed names, and the search for tables without an address."""
