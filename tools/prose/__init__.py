"""Counts and checks the idiom of documentation, docstrings, comments and messages."""
