"""The command completion, and the answers to a shell that completes a word."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from eventferry.cli.commands import command
from eventferry.cli.output import print_data

INSTRUCTION = "_EVENTFERRY_COMPLETE"
"""The variable by which a shell's function asks: `bash_complete`."""

_NAME = "eventferry"


class _Bash(BashComplete):
    """Bash, which takes a colon for a word of its own: the URL of a store is three words there."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to be completed, and what there is of that."""
        args, incomplete = super().get_completion_args()
        joined: list[str] = []
        for word in (*args, incomplete):
            if joined and (word.startswith(":") or joined[-1].endswith(":")):
                joined[-1] += word
            else:
                joined.append(word)
        return joined[:-1], joined[-1]


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}


def complete(cli: click.Command, instruction: str) -> int:
    """Answer a shell; the exit status."""
    shell = _SHELLS.get(instruction.removesuffix("_complete"))
    if shell is None:
        return 1
    print_data(shell(cli, {}, _NAME, INSTRUCTION).complete().encode())
    return 0


@command()
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script by which a shell completes commands, options, stores and files.

    \b
    eval "$(eventferry completion bash)"   in ~/.bashrc
    eval "$(eventferry completion zsh)"    in ~/.zshrc, behind compinit
    eventferry completion fish | source    in ~/.config/fish/config.fish
    """
    completer = _SHELLS[shell](context.find_root().command, {}, _NAME, INSTRUCTION)
    print_data(ShellComplete.source(completer).encode())
