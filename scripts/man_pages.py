"""The manual pages: one for `eventferry`, and one for each command, from the command's help and docs/cli.md."""

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from eventferry.cli import cli
from eventferry.cli.commands import first_sentence, sections_of

MAIN = ("Arguments", "Output and exit status", "Configuration file", "Environment variables", "Logs")
"""Sections of docs/cli.md that are about all commands."""

GENERATED = re.compile(r"<!-- write-docs: command [^>]*-->.*?<!-- end -->\n", re.DOTALL)
FIRST = re.compile(r"^(\.S[HS] .*\n)\.PP\n", re.MULTILINE)
"""A paragraph behind a heading begins by itself."""

COMMENT = re.compile(r"<!--.*?-->\n", re.DOTALL)
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\([^)]*\)")


def pages(reference: str) -> dict[str, str]:
    """The text of each page by the name of its file. `reference` is docs/cli.md."""
    about = sections(reference)
    found = {"eventferry.1": page(cli, (), "".join(part(title, about[title]) for title in MAIN))}
    for words, command in commands(cli):
        text = about.get(" ".join(words), "")
        notes = [".SH NOTES\n", roff(text)] if text.strip() else []
        found[f"{'-'.join(('eventferry', *words))}.1"] = page(command, words, "".join(notes))
    return found


def commands(
    group: click.Group, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Each command, and those below it, with its words."""
    for name, command in group.commands.items():
        yield (*before, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))


def sections(reference: str) -> dict[str, str]:
    """What is written by hand below each heading."""
    parts = re.split(r"^##+ (.*)\n", GENERATED.sub("", reference), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def page(command: click.Command, words: tuple[str, ...], notes: str) -> str:
    """A page: what the help says, and then the notes."""
    name = "-".join(("eventferry", *words))
    context = click.Context(cli, info_name="eventferry", **cli.context_settings)
    for word, below in zip(words, path(words), strict=True):
        context = click.Context(below, parent=context, info_name=word)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH "{name.upper()}" 1 "" "eventferry" "eventferry"\n',
        f".SH NAME\n{escaped(name)} \\- {escaped(first_sentence(command))}\n",
        f".SH SYNOPSIS\n.B {escaped(' '.join(('eventferry', *words)))}\n{escaped(usage)}\n",
        f".SH DESCRIPTION\n{described(command.help or '')}",
    ]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS\n")
        titles = getattr(command, "sections", {}) or {"": list(command.commands)}
        for title, names in titles.items():
            lines.append(f".SS {escaped(title)}\n" if title else "")
            lines += [
                entry(f"\\fB{escaped(each)}\\fR", first_sentence(command.commands[each])) for each in names
            ]
    lines.append(".SH OPTIONS\n")
    for title, options in sections_of(command, context).items():
        lines.append(f".SS {escaped(title)}\n")
        for each in options:
            record = each.get_help_record(context)
            if record is not None:
                lines.append(entry(f"\\fB{escaped(record[0])}\\fR", record[1]))
    also = (
        () if not words else ("eventferry",) if len(words) == 1 else ("eventferry", f"eventferry-{words[0]}")
    )
    seen = f".SH SEE ALSO\n{', '.join(f'{escaped(each)}(1)' for each in also)}\n" if also else ""
    return FIRST.sub(r"\1", "".join([*lines, notes, seen]))


def path(words: tuple[str, ...]) -> list[click.Command]:
    """The commands that the words name, one below the other."""
    found: list[click.Command] = []
    below: click.Command = cli
    for word in words:
        assert isinstance(below, click.Group)  # noqa: S101
        below = below.commands[word]
        found.append(below)
    return found


def entry(name: str, text: str) -> str:
    """A name, and indented below it what it means."""
    return f".TP\n{name}\n{inline(text)}\n"


def described(text: str) -> str:
    """The paragraphs of a help; one behind a \\b keeps its lines."""
    paragraphs = cleandoc(text).split("\n\n")
    return "".join(
        example(each.partition("\n")[2]) if each.startswith("\b") else paragraph(each) for each in paragraphs
    )


def part(title: str, text: str) -> str:
    """A section of the reference."""
    return f".SH {escaped(title.upper())}\n{roff(text)}"


def roff(markdown: str) -> str:
    """Paragraphs, lists, tables and blocks, as they are in docs/cli.md."""
    told: list[str] = []
    for number, text in enumerate(BLOCK.split(COMMENT.sub("", markdown))):
        if number % 2:
            told.append(example(text.rstrip("\n")))
        else:
            told += [paragraph(each.strip("\n")) for each in re.split(r"\n\n+", text) if each.strip()]
    return "".join(told)


def paragraph(text: str) -> str:
    """What stands between two blank lines."""
    if text.startswith("|"):
        rows = [re.split(r"(?<!\\)\|", row.strip("|")) for row in text.split("\n")[2:]]
        cells = [[cell.strip().replace(r"\|", "|") for cell in row] for row in rows]
        return "".join(entry(inline(first), ": ".join(filter(None, rest))) for first, *rest in cells)
    if text.startswith("- "):
        items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
        return "".join(f".IP \\(bu 2\n{inline(' '.join(item.split()))}\n" for item in items)
    return f".PP\n{inline(' '.join(text.split()))}\n"


def example(text: str) -> str:
    """Lines that stay as they are."""
    body = "\n".join(guarded(escaped(line)) for line in text.split("\n"))
    return f".PP\n.RS 4\n.nf\n{body}\n.fi\n.RE\n"


def inline(text: str) -> str:
    """Code and emphasis in bold, and of a link its text."""
    told, end = [], 0
    for match in INLINE.finditer(text):
        told.append(escaped(text[end : match.start()]))
        strong = match[1] or match[2]
        told.append(f"\\fB{escaped(strong)}\\fR" if strong else inline(match[3]))
        end = match.end()
    return guarded("".join([*told, escaped(text[end:])]))


def escaped(text: str) -> str:
    """A text in which nothing is a command of roff, and a dash is the one that is typed."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")


def guarded(line: str) -> str:
    """A line that does not begin like a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def write(folder: Path, reference: str, *, is_check: bool) -> list[str]:
    """Write the pages that differ, and remove those of no command; tells which."""
    wanted = pages(reference)
    there = {each.name: each.read_text(encoding="utf-8") for each in folder.glob("*.1")}
    wrong = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    for name in [] if is_check else wrong:
        if name in wanted:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return [f"man/{name} {'differs from the code' if is_check else 'was written'}" for name in wrong]
