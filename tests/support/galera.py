"""A MariaDB Galera cluster of three nodes on this machine: MariaDB servers as in `servers`, with Debian's galera-4."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pymysql

from tests.support.mysql import connect
from tests.support.servers import CACHE, START_SECONDS, MariaDb, free_port, make_folder, run

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
PROGRAMS = f"{CACHE / 'galera' / 'usr' / 'bin'}:{os.environ.get('PATH', os.defpath)}"
"""Where a node finds wsrep_sst_rsync, which it runs when it joins the others, and what that calls."""


class Node(MariaDb):
    """A node. It takes connections when it belongs to the cluster and has all that was committed there.

    Attributes:
        cluster_port: where the other nodes reach it.
        members: the nodes' addresses; empty for the one that begins a cluster. None: it is no node yet.
    """

    kind: ClassVar[str] = "MariaDB Galera"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cluster_port, self._state_port, self._files_port = free_port(), free_port(), free_port()
        self.members: Sequence[str] | None = None
        self._position = ""

    def command(self) -> Sequence[str]:
        if self.members is None:
            return super().command()
        if not PROVIDER.exists():
            raise RuntimeError(f"the tests need {PROVIDER}: on Debian install the package galera-4")
        for program in ("wsrep_sst_rsync", "rsync"):
            if shutil.which(program, path=PROGRAMS) is None:
                raise RuntimeError(f"the tests need {program}: scripts/cluster-tests gets it")
        provider = {
            "gmcast.listen_addr": f"tcp://127.0.0.1:{self.cluster_port}",
            "ist.recv_addr": f"127.0.0.1:{self._state_port}",
            "gcache.size": "64M",
        }
        settings: dict[str, object] = {
            "innodb-autoinc-lock-mode": "2",
            "binlog-format": "ROW",
            "wsrep-on": "ON",
            "wsrep-provider": PROVIDER,
            "wsrep-cluster-name": "test",
            "wsrep-cluster-address": f"gcomm://{','.join(self.members)}",
            "wsrep-node-address": f"127.0.0.1:{self.cluster_port}",
            "wsrep-sst-receive-address": f"127.0.0.1:{self._files_port}",
            "wsrep-provider-options": ";".join(f"{name}={value}" for name, value in provider.items()),
        }
        if self._position:
            settings["wsrep-start-position"] = self._position
        options = [f"--{name}={value}" for name, value in settings.items()]
        return ["env", f"PATH={PROGRAMS}", *super().command(), *options]

    def is_ready(self) -> bool:
        if self.members is None:
            return super().is_ready()
        try:
            return self.status("wsrep_ready") == "ON"
        except pymysql.err.OperationalError:
            return False

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        return connect(self.url(""), **options)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def status(self, name: str) -> str:
        [(_, value)] = self.run(f"SHOW STATUS LIKE '{name}'")
        return str(value)

    def start_again(self) -> None:
        """Start it behind a kill: it goes on where it was, and gets what it has missed from the others."""
        told = run([*self.command(), "--wsrep-recover"])
        found = re.search(r"Recovered position:? (\S+)", told)
        if found is None:
            raise RuntimeError(f"the node does not know its position:\n{told}")
        self._position = found[1]
        self.start()


class Cluster:
    """Three nodes. What one commits the others have."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [Node(make_folder(folder / f"galera-{number}")) for number in range(3)]
        self._names = count()

    def start(self) -> None:
        """The nodes begin with the same files, so that none sends them to another."""
        first, *others = self.nodes
        first.make()
        first.members = ()
        first.start()
        first.stop()
        for node in others:
            run(["cp", "--recursive", str(first.data), str(node.data)])
        first.start()
        for node in self.nodes:
            node.members = [f"127.0.0.1:{other.cluster_port}" for other in self.nodes]
        for node in others:
            node.start()
        self.wait_for(3)

    def wait_for(self, size: int) -> None:
        """Wait until all nodes that run know of so many, and belong to the part that may write."""
        deadline = time.monotonic() + START_SECONDS
        while not all(
            node.status("wsrep_cluster_size") == str(size) and node.is_ready() for node in self.running
        ):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster has no {size} nodes")
            time.sleep(0.05)

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.is_running]

    def new_urls(self, query: str = "") -> list[str]:
        """The URLs of a fresh place for a store, on each node."""
        name = f"test_{next(self._names)}"
        return [node.url(name) + query for node in self.nodes]

    def kill(self) -> None:
        for node in self.running:
            node.kill()
