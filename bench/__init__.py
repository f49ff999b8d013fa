"""The figures that README.md quotes: ratios of two things measured side by side in one run."""
