"""Text of events, names and messages, as people may see it."""

from __future__ import annotations


def visible(text: str) -> str:
    """A text as one line for people: terminal control, line breaks and direction marks are escaped.

    Ids and types of events, file names and messages of servers may contain anything. The escapes are those of JSON, so
    a JSON object stays valid. A byte of a file name that is not UTF-8 is shown as a lone surrogate.
    """
    if text.isprintable():
        return text
    import json  # rarely needed

    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
