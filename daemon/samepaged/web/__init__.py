"""The web process: it serves the documents that the scanner has finished, and knows nothing of guests."""
