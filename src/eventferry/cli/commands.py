"""Commands whose help has sections, and tells every sentence whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

GENERAL = "Messages and help"
"""The section of the options that every command has."""

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Option(click.Option):
    """An option that stands in a section of the help of its command.

    Attributes:
        section: the title; by default, of the command's own options.
    """

    section = "Options"


class Command(click.Command):
    """A command whose options stand in sections."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """What it does, in a sentence, however long that is."""
        return first_sentence(self)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        for title, options in sections_of(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl([record for each in options if (record := each.get_help_record(ctx))])


class Group(click.Group):
    """A group whose commands may stand in sections."""

    command_class = Command

    def get_short_help_str(self, limit: int = 0) -> str:
        """What its commands do, in a sentence, however long that is."""
        return first_sentence(self)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sections: dict[str, list[str]] = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands below a title."""
        for each in commands:
            self.add_command(each)
        self.sections[title] = [str(each.name) for each in commands]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the first sentence of each, and the options."""
        for title, names in (self.sections or {"Commands": list(self.commands)}).items():
            with formatter.section(title):
                formatter.write_dl([(name, first_sentence(self.commands[name])) for name in names])
        Command.format_options(self, ctx, formatter)  # type: ignore[arg-type]


def sections_of(command: click.Command, context: click.Context) -> dict[str, list[click.Option]]:
    """The options of a command by section: its own first, those that every command has last."""
    found: dict[str, list[click.Option]] = {Option.section: [], GENERAL: []}
    for each in command.get_params(context):
        if isinstance(each, click.Option) and not each.hidden:
            is_general = not {"--help", "--version"}.isdisjoint(each.opts)
            title = GENERAL if is_general else getattr(each, "section", Option.section)
            found.setdefault(title, []).append(each)
    found[GENERAL] = found.pop(GENERAL)
    return {title: options for title, options in found.items() if options}


def first_sentence(command: click.Command) -> str:
    """What a command does, in a sentence."""
    paragraph = " ".join((command.help or "").partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def command(name: str | None = None) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator for a command, by the name of its function unless another is given."""
    return click.command(name, cls=Command)


def section(title: str, *options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Options for commands that have all of them, in a section of their help."""

    def add(function: Function) -> Function:
        before = len(getattr(function, "__click_params__", ()))
        for each in reversed(options):
            function = each(function)
        for added in function.__click_params__[before:]:  # type: ignore[attr-defined]
            added.section = title
        return function

    return add
