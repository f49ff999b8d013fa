"""Data structures of a Linux kernel in a guest's memory, and their information about each page."""
