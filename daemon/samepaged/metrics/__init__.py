"""Prometheus metrics: one file a section of docs/metrics.md, definitions beside the code that fills them."""
