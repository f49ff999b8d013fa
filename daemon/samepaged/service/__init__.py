"""The daemon: its loop, one scan of all guests, its schedule, and what systemd wants to hear."""
