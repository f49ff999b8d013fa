"""Scans of one guest or of the whole host: results, and state kept between scans. For commands and service."""
