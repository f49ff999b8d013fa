"""The command `samepaged fleet`."""

from __future__ import annotations

from samepaged.commands import interface
from samepaged.commands.fleet import place, sharing

__all__ = ["Command"]


class Command(interface.CommandGroup):
    """Analyse the page-hash traces of many hosts: their sharing, and a better placement of their guests."""

    help = "analyse the traces of many hosts: sharing, and placement of guests"
    commands = (sharing.Command(), place.Command())
