"""Prometheus metrics: one file per section of docs/reference/metrics.md, with definitions and values together."""
