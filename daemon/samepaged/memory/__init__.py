"""A guest's RAM to page hashes: where it lies, which of its pages are backed, and reading them."""
