"""The figures of docs/develop/figures.md: ratios of two things measured side by side in one run."""
