"""Dead man's switch: the guard process, its journal, and the resumption of guests after a crash."""
