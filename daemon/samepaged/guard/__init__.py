"""The dead man's switch: the guard process, its journal, and resuming guests after a crash."""
