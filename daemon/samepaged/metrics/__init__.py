"""Prometheus metrics: one file a section of docs/reference/metrics.md, definitions beside the code that fills them."""
