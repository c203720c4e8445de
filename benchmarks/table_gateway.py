"""What of PostgREST a library needs that writes to tables: insert, select with `eq`, `order` and `limit`; in threads.

For a peer alone: perdure calls functions, through the stand-in of the tests.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg import sql

__all__ = ["table_gateway"]


@contextmanager
def table_gateway(database_url: str) -> Iterator[str]:
    """The address of a project whose tables are those of the database."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self._database = psycopg.connect(database_url, autocommit=True)  # a connection for each of the client's

        def finish(self) -> None:
            self._database.close()
            super().finish()

        def do_GET(self) -> None:
            table, asked = self._asked()
            order = asked.pop("order", None)
            bounds = [
                sql.SQL("{} {}").format(sql.SQL(word), int(asked.pop(word)))
                for word in ("limit", "offset")
                if word in asked
            ]
            asked.pop("select", None)
            where = [
                sql.SQL("{} = {}").format(sql.Identifier(name), value.removeprefix("eq."))
                for name, value in asked.items()
            ]
            statement = sql.SQL("select coalesce(json_agg(t), '[]') from (select * from {} where {} {} {}) t").format(
                sql.Identifier(table),
                sql.SQL(" and ").join(where or [sql.SQL("true")]),
                sql.SQL("order by {}").format(sql.Identifier(order.partition(".")[0])) if order else sql.SQL(""),
                sql.SQL(" ").join(bounds),
            )
            self._reply(200, statement)

        def do_POST(self) -> None:
            table, _ = self._asked()
            given = self.rfile.read(int(self.headers["Content-Length"])).decode()
            rows = json.loads(given)
            columns = sql.SQL(", ").join(map(sql.Identifier, rows[0] if isinstance(rows, list) else rows))
            statement = sql.SQL(
                "with added as (insert into {table} ({columns}) select {columns} from"
                " json_populate_recordset(null::{table}, {rows}) returning *) select json_agg(added) from added"
            ).format(
                table=sql.Identifier(table), columns=columns, rows=given if isinstance(rows, list) else f"[{given}]"
            )
            self._reply(201, statement)

        def log_message(self, *_: object) -> None:
            pass

        def _asked(self) -> tuple[str, dict[str, str]]:
            address = urlsplit(self.path)
            return address.path.rpartition("/")[2], dict(parse_qsl(address.query))

        def _reply(self, status: int, statement: sql.Composed) -> None:
            try:
                (found,) = self._database.execute(statement).fetchone() or ([],)
            except psycopg.Error as error:
                status, found = 400, {"message": str(error), "code": error.sqlstate, "details": None, "hint": None}
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
