"""The command `samepaged traces`."""

from __future__ import annotations

from samepaged.commands import interface
from samepaged.commands.traces import export, import_file, ls, prune, show, verify

__all__ = ["Command"]


class Command(interface.CommandGroup):
    """List, inspect, verify, prune, export and import page-hash traces."""

    help = "list, verify, prune, export and import page-hash traces"
    commands = (
        ls.Command(),
        show.Command(),
        verify.Command(),
        prune.Command(),
        export.Command(),
        import_file.Command(),
    )
