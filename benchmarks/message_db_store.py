"""One operation of message-db, measured with the words of `ours.py`, by its own functions in PostgreSQL.

python -m benchmarks.message_db_store OPERATION PLACE [ARGUMENT]

All streams are in one category, so that a category's messages are all of the store.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support.foreign import message_db

from benchmarks.timing import Timer

PAGE = 1000


def main(operation: str, place: str, argument: str = "") -> None:
    """The command."""
    url = place.partition("?")[0]
    timer = Timer()
    count = 0
    if operation == "create":
        message_db.install(url)
        print(json.dumps({"events": 0, "seconds": 0.0}))
        return
    with message_db.connect(url) as connection:
        connection.prepare_threshold = 0
        match operation:
            case "import":  # not measured: it has no way to write many
                with connection.transaction(), Path(argument).open("rb") as lines:
                    for line in lines:
                        event = json.loads(line)
                        stream = f"benchmark-{event['aggregateId']}"
                        message_db.write_message(connection, stream, event["type"], event["payload"])
            case "saves":
                count = int(argument)
                message_db.write_message(connection, "benchmark-warm", "SAVED", {"version": 1}, expected=-1)
                timer = Timer()
                for version in range(count):
                    with timer.call():
                        message_db.write_message(
                            connection, "benchmark-saved", "SAVED", {"version": version}, expected=version - 1
                        )
            case "pages":
                last, statement = 0, "SELECT * FROM get_category_messages('benchmark', %s, %s)"
                while True:
                    with timer.call():
                        found = connection.execute(statement, (last + 1, PAGE)).fetchall()
                    if not found:
                        break
                    count += len(found)
                    last = found[-1][4]
            case "aggregate of 100":
                for version in range(100):
                    message_db.write_message(connection, "benchmark-hundred", "SAVED", {"version": version})
                statement = "SELECT * FROM get_stream_messages('benchmark-hundred', 0, -1)"
                timer = Timer()
                for _ in range(int(argument)):
                    with timer.call():
                        count += len(connection.execute(statement).fetchall())
            case _:
                raise SystemExit(f"no operation {operation!r}")
    print(json.dumps({"events": count} | timer.told()))


if __name__ == "__main__":
    main(*sys.argv[1:])
