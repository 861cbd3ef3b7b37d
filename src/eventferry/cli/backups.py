"""The command backup, and the commands below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

import eventferry
from eventferry.cli.commands import Group, command
from eventferry.cli.options import REPOSITORY, STORE, flag, jobs_option, json_option, option, stores_like
from eventferry.cli.output import print_result
from eventferry.cli.places import store_at
from eventferry.cli.repositories import cat, check, drill, head, list_, prune, status
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import counted, rate

if TYPE_CHECKING:
    from eventferry import BackupReport

single_writer_option = flag(
    "--single-writer",
    "Allow a storage that ignores conditions. You make sure that only one backup runs at a time.",
)


@command("backup")
@click.argument("store", type=STORE)
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@option(
    "--recipient recipients",
    "KEY",
    "Encrypt to this public key of age or SSH, or to those in this file (repeatable).",
    multiple=True,
)
@flag(
    "--with-secrets secrets",
    "Back up the store's secrets too, and remove those of the run before from REPO.",
)
@single_writer_option
@jobs_option
@json_option
@cancellable
async def run(
    store: str,
    repository: str,
    recipients: tuple[str, ...],
    secrets: bool,
    single_writer: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Add to a backup repository what is new in a store.

    REPO is a folder, or s3://bucket/path, gs://bucket/path or az://container/path; it is created, and may hold
    the backups of many stores. A run that was ended or killed left nothing half: run it again, and it uses what was
    finished.
    """
    import time

    began = time.monotonic()
    async with store_at(store) as opened:
        report = await eventferry.back_up(
            opened,
            repository,
            recipients=recipients,
            secrets=secrets,
            single_writer=single_writer,
            jobs=jobs,
        )
    print_result(report, _told(report, time.monotonic() - began), as_json=as_json)


def _told(report: BackupReport, seconds: float) -> str:
    parts = f"{counted(report.parts, 'part')}, {report.stored_bytes:,} bytes stored"
    reused = f", {report.reused_parts:,} of them were there already" if report.reused_parts else ""
    secrets = "" if report.secrets is None else f"; {counted(report.secrets, 'secret')}"
    others = (
        f"; another backup ran at the same time and added {counted(report.overtaken, 'manifest')}"
        if report.overtaken
        else ""
    )
    return (
        f"backed up {rate(report.events, seconds)}: {parts}{reused}{secrets}{others}; manifest {report.manifest} of "
        f"chain {report.chain} has {counted(report.total_events, 'event')}, digest {report.digest}"
    )


class RunGroup(Group):
    """A command with commands below it, as `backup STORE REPO` and `backup COMMAND`: no name of these is a store's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What names no command is the arguments of `run`."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and stores."""
        stores = [] if incomplete.startswith("-") else stores_like(incomplete)
        return [*stores, *super().shell_complete(ctx, incomplete)]


@click.group(cls=RunGroup)
def backup() -> None:
    """Back up a store into a repository; check, list, drill and prune it.

    \b
    eventferry backup STORE REPO     add to the repository what is new in the store
    eventferry backup COMMAND REPO   one of the commands below
    """


backup.add_command(run, "run")
for each in (check, drill, list_, head, status, cat, prune):
    backup.add_command(each)
