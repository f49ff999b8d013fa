"""Offline analysis of traces: studies, fleets of hosts, placement of guests. The daemon does not import it."""
