"""The web process: serves the documents that the scanner sends, without access to guests."""
