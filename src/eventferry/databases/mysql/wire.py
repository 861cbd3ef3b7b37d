"""What PyMySQL's connection lacks: rows as they come off the wire, and LOAD DATA from memory.

PyMySQL spends 9 µs on a row of four columns; export needs the same four for every event. So it reads those rows
itself, and stops where it has enough.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from pymysql.connections import Connection as PyMysqlConnection
from pymysql.connections import MySQLResult
from pymysql.constants import CLIENT, COMMAND, CR, ER, SERVER_STATUS
from pymysql.err import OperationalError, raise_mysql_exception

_PyMysqlConnection: Any = PyMysqlConnection  # of what is used here its stubs know half

_CHUNK = 1024 * 1024
_AT_ONCE = 64 * 1024
_WHOLE_PACKET = 2**24 - 1
_IN_CLEAR = (b"mysql_clear_password", b"dialog")
_END, _ERROR = 0xFE, 0xFF
_LENGTH_BYTES = {0xFC: 3, 0xFD: 4, 0xFE: 9}
_LITTLE = 4 * 1024 * 1024  # bytes of rows that are sooner read over than kept from coming


class ServerAnswer(NamedTuple):
    """What a statement has selected; how many rows it has changed, or found; and what it gave to LAST_INSERT_ID()."""

    rows: list[tuple[Any, ...]]
    affected: int
    insert_id: int


class _Result(MySQLResult):
    connection: Any

    def __del__(self) -> None:
        """Nothing: PyMySQL's own reads what is left, in whichever thread drops the result."""

    def _read_load_local_packet(self, first_packet: Any) -> None:
        # Whatever file the server names, it gets what the statement was called with and no file.
        wire = self.connection
        parts, wire.infile = wire.infile, None
        for part in parts or ():
            for start in range(0, len(part), _CHUNK):
                wire.write_packet(part[start : start + _CHUNK])
        wire.write_packet(b"")
        packet = wire._read_packet()
        if parts is None:
            raise OperationalError(0, "the server asked for a file that nobody offered")
        self._read_ok_packet(packet)  # type: ignore[attr-defined]


class Wire(_PyMysqlConnection):  # type: ignore[misc]
    """A connection to a server, with PyMySQL's options and `demands_tls`."""

    infile: Iterable[bytes] | None = None
    node: str | None = None
    """The id of the node of a cluster; None where the server is none."""

    def __init__(self, *, demands_tls: bool = False, **options: Any) -> None:
        self._demands_tls = demands_tls
        super().__init__(**options)

    @property
    def is_mariadb(self) -> bool:
        return "MariaDB" in self.server_version

    def _request_authentication(self) -> None:
        # Before the server has been told who we are.
        if self._demands_tls and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(
                CR.CR_SSL_CONNECTION_ERROR,
                "the server offers no TLS; to connect without it, set ssl_verify=off",
            )
        super()._request_authentication()

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        if plugin_name in _IN_CLEAR and not self._secure:
            raise OperationalError(
                CR.CR_AUTH_PLUGIN_ERR, "the server asks for the password in clear, without TLS"
            )
        return super()._process_auth(plugin_name, auth_packet, handler)

    def answers(self, statements: str) -> list[ServerAnswer]:
        """What the server says to each of these statements, in which values stand already."""
        # A node of a cluster that undoes a transaction may not tell what it told in the middle of several statements.
        is_open = self.node is not None and self._is_in_transaction
        self.query(statements)
        found = [self._answer]
        while self._result.has_next:
            self.next_result()
            found.append(self._answer)
        if is_open and not self._is_in_transaction and statements != "COMMIT":
            raise OperationalError(ER.LOCK_DEADLOCK, "the transaction was undone")
        return found

    @property
    def _answer(self) -> ServerAnswer:
        return ServerAnswer(
            list(self._result.rows or ()), self._result.affected_rows, self._result.insert_id or 0
        )

    def results(self, statements: str) -> list[list[tuple[Any, ...]]]:
        """The rows of each of these statements, in which values stand already."""
        return [answer.rows for answer in self.answers(statements)]

    @property
    def _is_in_transaction(self) -> bool:
        return bool(self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def cut(self) -> None:
        """Make whoever waits for the server hear that the connection is gone; from any thread."""
        if (sock := getattr(self, "_sock", None)) is not None:
            with contextlib.suppress(OSError):
                # Not TLS's own shutdown, which waits for the server.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def keep_alive(self, idle: int) -> None:
        """Have the system look after so many seconds of silence whether the server is there, for as long again; and
        break the connection if what was sent is not acknowledged in all this time."""
        sock = getattr(self, "_sock", None)
        if sock is None or sock.family == socket.AF_UNIX:
            return
        settings = {"TCP_KEEPIDLE": idle, "TCP_KEEPALIVE": idle, "TCP_KEEPINTVL": max(idle // 3, 1)}
        # The second one also bounds the first: a shorter silence than it says ends no connection.
        for name, value in (settings | {"TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 2000 * idle}).items():
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def escape(self, obj: object, mapping: Any = None) -> Any:
        """A value as a literal. A text doubles backslashes and quotes and nothing else: `ColumnLimits` counts on it."""
        if isinstance(obj, str):
            return "'" + obj.replace("\\", "\\\\").replace("'", "''") + "'"
        return super().escape(obj, mapping)

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        if sslp:
            context: ssl.SSLContext = super()._create_ssl_ctx(sslp)
            return context
        # Where TLS is only preferred, nothing is verified: reading in all authorities would cost 100 ms.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        # As PyMySQL's own, with our class of results.
        self._result: Any = None
        result: Any = _Result(self)
        result.init_unbuffered_query() if unbuffered else result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows

    def load(self, statement: str, parts: Iterable[bytes]) -> tuple[int, int]:
        """Run a LOAD DATA LOCAL statement on these bytes; the affected rows and the number of warnings."""
        self.infile = parts
        try:
            self.query(statement)
            return self._result.affected_rows, self._result.warning_count
        finally:
            self.infile = None

    def lines(
        self, statement: str, interrupt: Callable[[], None], take: Callable[[list[bytes], list[bytes]], bool]
    ) -> bool:
        """Gives the two columns of a statement that selects a short text, not NULL, and a line, empty for NULL: of as
        many rows at a time as have come, until `take` has enough.

        Whether that was before all rows had come. The rest is read over, or where it is much, `interrupt` stops it.
        """
        batches = self._rows(statement)
        for rows in batches:
            heads: list[bytes] = []
            lines: list[bytes] = []
            for row in rows:
                end = row[0] + 1
                heads.append(row[1:end])
                lines.append(row[end + _LENGTH_BYTES.get(row[end], 1) :])
            if take(heads, lines):
                return self._read_over(chain.from_iterable(batches), interrupt)
        return False

    def _rows(self, statement: str) -> Iterator[list[bytes]]:
        """The packets of a statement's rows, as many at a time as have come."""
        self._execute_command(COMMAND.COM_QUERY, statement)
        columns = self._read_packet().read_length_encoded_integer()
        for _ in range(columns + 1):  # their descriptions, and an end
            self._read_packet()
        rest, missing = b"", 0
        while True:
            try:
                come = self._rfile.read(missing) if missing > _AT_ONCE else self._rfile.read1(_AT_ONCE)
            except OSError as error:
                self._force_close()
                raise OperationalError(CR.CR_SERVER_LOST, str(error)) from None
            if not come:
                self._force_close()
                raise OperationalError(CR.CR_SERVER_LOST, "the connection broke while rows were read")
            rows, last, rest = _packets(rest + come)
            missing = _missing(rest)
            if rows:
                yield rows
            if last is None:
                continue
            if last[0] == _ERROR:
                raise_mysql_exception(last)
            self.server_status = int.from_bytes(last[3:5], "little")
            return

    @staticmethod
    def _read_over(packets: Iterator[bytes], interrupt: Callable[[], None]) -> bool:
        rest, asked, more = 0, False, False
        try:
            for row in packets:
                more = True
                rest += len(row)
                if rest > _LITTLE and not asked:
                    interrupt()
                    asked = True
        except OperationalError as error:
            if error.args[0] != ER.QUERY_INTERRUPTED or not asked:
                raise
        return more


def _packets(data: bytes) -> tuple[list[bytes], bytes | None, bytes]:
    """The rows that are whole in what has come, the packet behind the last row if it is there, and what is left over.
    A packet is three bytes of length, one of its number, and so many bytes; a row of more than 16 MB is several."""
    rows: list[bytes] = []
    at, end = 0, len(data)
    while at + 4 <= end:
        size = int.from_bytes(data[at : at + 3], "little")
        stop = at + 4 + size
        if size == _WHOLE_PACKET:
            row, stop = _long_row(data, at)
        else:
            row = data[at + 4 : stop]
        if stop > end:
            break
        at = stop
        if row[0] == _ERROR or (row[0] == _END and len(row) < 9):
            return rows, row, data[at:]
        rows.append(row)
    return rows, None, data[at:]


def _missing(rest: bytes) -> int:
    """How many bytes a row still lacks, as far as its packets have told."""
    at, size = 0, _WHOLE_PACKET
    while size == _WHOLE_PACKET and at + 4 <= len(rest):
        size = int.from_bytes(rest[at : at + 3], "little")
        at += 4 + size
    return max(at - len(rest), 0)


def _long_row(data: bytes, at: int) -> tuple[bytes, int]:
    """A row of several packets, and where it ends: behind what has come if it is not whole."""
    parts: list[bytes] = []
    size = _WHOLE_PACKET
    while size == _WHOLE_PACKET:
        if at + 4 > len(data):
            return b"", len(data) + 1
        size = int.from_bytes(data[at : at + 3], "little")
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return b"".join(parts), at
