"""Placement of guests on the hosts of a fleet for the largest memory sharing within the hosts."""
