"""Makes samepaged's Grafana dashboards: `python -m observability.grafana.generator` writes them, `--check` compares."""
