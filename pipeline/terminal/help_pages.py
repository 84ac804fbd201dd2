"""The main help page: commands in groups, each with its first sentence whole."""

from __future__ import annotations

import click

GROUPS = {
    "Run": ("run", "demo", "plan", "batch", "register", "prepare", "infer"),
    "After a run": ("report", "view", "status", "validate", "threshold", "mosaic", "vectorise", "clean"),
    "Accuracy and area": ("districts", "sample", "assess"),
    "Models and training": ("models", "train", "evaluate", "data"),
    "Clusters": ("submit",),
    "This machine": ("doctor", "bench", "config"),
}
"""Commands by what they are for."""

OTHER = "Other"
"""Heading of the commands in no group."""


class GroupedHelp(click.Group):
    """A group whose help page has its commands by what they are for."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups."""
        commands = {
            name: command
            for name in self.list_commands(context)
            if (command := self.get_command(context, name)) is not None and not command.hidden
        }
        grouped = {name for names in GROUPS.values() for name in names}
        rest = tuple(name for name in commands if name not in grouped)
        width = max(map(len, commands), default=0)
        for heading, names in {**GROUPS, OTHER: rest}.items():
            rows = [(name.ljust(width), _sentence(commands[name])) for name in names if name in commands]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _sentence(command: click.Command) -> str:
    """Return the first sentence of a command's help, whole."""
    return command.get_short_help_str(limit=1000)
