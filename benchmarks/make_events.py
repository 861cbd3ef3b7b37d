"""Events to measure with: the same n for the same seed, in order, in lines of about 320 bytes.

python -m benchmarks.make_events 100000 > events.jsonl
python -m benchmarks.make_events 100000 --versionless > later.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator

LONG_AGO = 1_600_000_000_000
LATER = 1_700_000_000_000
"""When the versionless events begin: after every other, so that they can be imported incrementally behind them."""

TYPES = ("ORDER_PLACED", "ITEM_ADDED", "ADDRESS_CHANGED", "PAYMENT_RECEIVED", "PARCEL_SENT", "ORDER_CLOSED")
CITIES = ("Aarhus", "Kraków", "München", "São Paulo", "Zürich", "Århus", "東京", "Łódź")
EVENTS_PER_AGGREGATE = 10


def make_events(n: int, *, seed: int = 1, versionless: bool = False) -> Iterator[bytes]:
    """The lines of n events; versionless ones have no position and no version, and are later than the others."""
    chance = random.Random(seed)
    counters = [0] * 256
    versions: dict[int, int] = {}
    timestamp = LATER if versionless else LONG_AGO
    for number in range(n):
        timestamp += chance.randrange(1, 20)  # never two at once: the order of lines is the order of events
        aggregate = chance.randrange(max(n // EVENTS_PER_AGGREGATE, 1))
        event = {
            "type": chance.choice(TYPES),
            "timestamp": timestamp,
            "aggregateId": f"order-{aggregate:08}",
            "payload": _payload(chance, number),
        }
        if not versionless:
            thread = chance.randrange(256)
            versions[aggregate] = versions.get(aggregate, 0) + 1
            event = {
                "threadCounter": counters[thread],
                "threadId": thread,
                "type": event["type"],
                "timestamp": timestamp,
                "aggregateId": event["aggregateId"],
                "aggregateVersion": versions[aggregate],
                "payload": event["payload"],
            }
            counters[thread] += 1
        yield json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _payload(chance: random.Random, number: int) -> dict[str, object]:
    return {
        "number": number,
        "customer": f"{chance.getrandbits(64):016x}",
        "city": chance.choice(CITIES),
        "cents": chance.randrange(1_000_000),
        "paid": chance.random() < 0.5,
        "items": [f"sku-{chance.randrange(100_000):05}" for _ in range(3)],
        "note": None if chance.random() < 0.2 else f'left "{chance.getrandbits(88):022x}" at the door',
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--versionless", action="store_true")
    options = parser.parse_args()
    for line in make_events(options.n, seed=options.seed, versionless=options.versionless):
        sys.stdout.buffer.write(line)


if __name__ == "__main__":
    main()
