"""A Linux kernel's own books, read out of a guest's memory: where they are, and what they say of each page."""
