"""Whose the pages are: what a Linux guest's own kernel says of each page of its memory, read from the host."""
