"""The daemon: loop, schedule, configuration reload, snapshot store, systemd."""
