"""Generator of samepaged's Grafana dashboards: `make dashboards`."""
