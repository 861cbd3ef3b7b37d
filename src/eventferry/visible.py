"""Text of events, names and messages, as people may see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def visible(text: str) -> str:
    """A text as one line for people: terminal control, line breaks and direction marks are escaped.

    Ids and types of events, file names and messages of servers may contain anything. The escapes are those of JSON, so
    a JSON object stays valid. A byte of a file name that is not UTF-8 is shown as a lone surrogate.
    """
    if text.isprintable():
        return text
    import json  # rarely needed

    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def respelling(words: Mapping[str, str]) -> Callable[[str], str]:
    """A function that spells the library's parameters in a message for who calls it in another way. `words` says how
    each is spelled there; one that ends with = whatever its value is. A key of the input or a quoted id with such a
    name is left alone, and what nobody there can set is left out."""
    ends = {name: "" if name.endswith("=") else r"(?![\w'\"])" for name in words}
    longest_first = "|".join(
        f"{re.escape(name)}{ends[name]}" for name in sorted(words, key=len, reverse=True)
    )
    parameter = re.compile(rf"(?<!field )(?<![\w'\"])(?:{longest_first})")

    def respelled(message: str) -> str:
        message = message.replace(" (the setting max_line_bytes)", "")
        return parameter.sub(lambda found: words[found[0]], message)

    return respelled
