"""Placement of guests on the hosts of a fleet, so that the hosts share most memory."""
