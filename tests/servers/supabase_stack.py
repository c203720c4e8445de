"""A whole Supabase project for a test: a database that looks like one, and a gateway before it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import psycopg
from psycopg import sql
from servers.gateway import CONTROL, Gateway, GatewayConfig, GatewayOptions
from servers.gateway_faults import Fault
from servers.gateway_keys import Keys
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import LocalServer, ServerFailed, free_port, wait_until

from perdure.middleware.persistence.migrations import postgres as migrations

HERE = Path(__file__).parent
LOGINS = ("owner", "authenticator", "supabase_storage_admin")
LOGS = ("requests.jsonl", "chunks.jsonl")


class Logged(NamedTuple):
    """A request as the gateway saw it; without a status when it was given no reply."""

    method: str
    path: str
    status: int | None
    fault: str | None


class Chunk(NamedTuple):
    """A request with bytes of a resumable upload: from where, how many arrived, how many counted."""

    upload: str
    offset: int
    received: int
    kept: int


class SupabaseStack(LocalServer):
    """`url` and the keys are what a user's settings hold; `db_url` is the owner's way to the database.

    Its roles are the cluster's, so the cluster should be one of its own and not one for plain Postgres. Several stacks
    on one cluster are apart: each has a database, a port and a folder.
    """

    def __init__(
        self,
        cluster: PostgresCluster,
        *,
        migrated: bool = True,
        rls: bool = True,
        policies: bool = True,
        old_grants: bool = False,
        process: bool = False,
        options: GatewayOptions | None = None,
    ) -> None:
        """
        Args:
            cluster: Must run for as long as the stack is started.
            migrated: Whether perdure's migrations are applied, by the owner.
            rls: False switches row level security off once all is made: what then still passes proves nothing.
            policies: Whether the owner may make policies on storage.objects, as on hosted projects only.
            old_grants: Whether new tables and functions are granted to the API roles, as before October 2026.
            process: Run the gateway as a process of its own, so that `kill` is possible and its work is not ours.
        """
        self.keys = Keys()
        self.database = f"supabase_{secrets.token_hex(4)}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._cluster = cluster
        self._kind = _Kind(migrated, rls, policies, old_grants)
        self._as_process = process
        self._options = options or GatewayOptions()
        self._folder = Path(tempfile.mkdtemp(prefix="perdure-gateway-"))
        self._gateway: Gateway | subprocess.Popen[bytes] | None = None
        self._told = httpx.Client(base_url=self.url)

    # ── what a user has ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def service_key(self) -> str:
        """A legacy JWT."""
        return self.keys.service_key

    @property
    def anon_key(self) -> str:
        return self.keys.anon_key

    @property
    def secret_key(self) -> str:
        """As `service_key`, of the new kind: sb_secret_…"""
        return self.keys.secret_key

    @property
    def publishable_key(self) -> str:
        return self.keys.publishable_key

    @property
    def db_url(self) -> str:
        return self._login("owner")

    def user_token(self, sub: str, expires_in: float = 3600, **claims: Any) -> str:
        """Of the role authenticated; negative `expires_in` for one that is over."""
        now = time.time()
        made = {"sub": sub, "role": "authenticated", "aud": "authenticated", "iat": int(now)}
        return self.keys.signed({**made, "exp": int(now + expires_in), **claims})

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> Self:
        self._make_database()
        self._launch()
        return self

    def close(self) -> None:
        """Stop the gateway; the database, the files and the log go away."""
        self._stop()
        self._told.close()
        self._cluster.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.database)))
        shutil.rmtree(self._folder)

    def restart(self) -> None:
        """Stop the gateway if it runs, and start it with all it kept. Orders for faults and the clock start anew."""
        self._stop()
        self._launch()

    def kill(self) -> None:
        """kill -9; only with `process`."""
        if not isinstance(self._gateway, subprocess.Popen):
            raise ServerFailed("the gateway is no process of its own, or does not run")
        self._gateway.kill()
        self._gateway.wait()
        self._gateway = None

    def stop(self) -> None:
        """Nobody listens any more, until `restart`."""
        self._stop()

    # ── for tests ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def requests(self) -> list[Logged]:
        """All of them, from the first start or the last `empty` on."""
        return [Logged(**line) for line in self._lines("requests.jsonl")]

    def chunks(self, upload: str) -> list[Chunk]:
        """Of the resumable uploads to `upload`, "<bucket>/<key>", in the order in which they ended."""
        return [chunk for line in self._lines("chunks.jsonl") if (chunk := Chunk(**line)).upload == upload]

    def order(self, *faults: Fault) -> None:
        """Have these carried out, besides those that are open."""
        for fault in faults:
            self._tell("fault", fault.as_dict())

    def clear_faults(self) -> None:
        self._tell("clear")

    def advance(self, seconds: float) -> None:
        """The gateway's clock, for tokens, signed URLs and uploads; the database's stays."""
        self._tell("advance", seconds)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, who sees everything."""
        with psycopg.connect(self._cluster.url(self.database), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def object_bytes(self, bucket: str, key: str) -> bytes | None:
        """What is stored, past the gateway."""
        found = self.execute("select version from storage.objects where bucket_id = %s and name = %s", [bucket, key])
        return (self._folder / "objects" / found[0][0]).read_bytes() if found else None

    def empty(self) -> None:
        """Delete every turn and every object, the log, and open faults: as cheap as a project can be had anew."""
        self.clear_faults()
        ours = ", public.chat_".join(["", "files", "forks", "words", "words_due", "messages", "sessions"])
        self.execute(f"truncate storage.objects{ours if self._kind.migrated else ''}")
        for kind in ("objects", "uploads"):
            for path in (self._folder / kind).iterdir():
                path.unlink()
        for log in LOGS:
            os.truncate(self._folder / log, 0)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────

    def _make_database(self) -> None:
        """From a template, which the first stack of its kind on a cluster makes."""
        self._cluster.execute((HERE / "supabase_roles.sql").read_text())
        for role in LOGINS:
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), self._cluster.password)
            self._cluster.execute(statement)
        self._cluster.execute(
            "GRANT supabase_storage_admin TO owner"
            if self._kind.policies
            else "REVOKE supabase_storage_admin FROM owner"
        )
        template = "supabase_template_" + "".join(str(int(choice)) for choice in self._kind)
        found = sql.SQL("SELECT 1 FROM pg_database WHERE datname = {}").format(template)
        if not self._cluster.execute(found):
            self._fill(self._cluster.create_database(template, owner="owner"))
        self._cluster.create_database(self.database, template=template, owner="owner")

    def _fill(self, database: str) -> None:
        self._cluster.execute((HERE / "supabase_database.sql").read_text(), database=database)
        with psycopg.connect(self._cluster.url(database, user="supabase_storage_admin"), autocommit=True) as admin:
            admin.execute((HERE / "supabase_storage_schema.sql").read_bytes())
        if self._kind.old_grants:
            for things in ("TABLES", "FUNCTIONS", "SEQUENCES"):
                self._cluster.execute(
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public "
                    f"GRANT ALL ON {things} TO anon, authenticated, service_role",
                    database=database,
                )
        if self._kind.migrated:
            migrations.apply(self._cluster.url(database, user="owner"), database, lambda _: None)
        if not self._kind.rls:
            secured = "SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity"
            for (table,) in self._cluster.execute(secured, database=database):
                self._cluster.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", database=database)

    def _launch(self) -> None:
        config = GatewayConfig(
            port=self.port,
            folder=self._folder,
            rest_url=self._login("authenticator"),
            storage_url=self._login("supabase_storage_admin"),
            keys=self.keys,
            options=self._options,
        )
        if not self._as_process:
            self._gateway = Gateway(config).start()
            return
        path = self._folder / "config.json"
        config.write(path)
        self._gateway = subprocess.Popen(
            [sys.executable, "-m", "servers.gateway", path],
            stdin=subprocess.PIPE,
            cwd=HERE.parent,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            start_new_session=True,
        )
        wait_until(self._answers, "the gateway did not start")

    def _stop(self) -> None:
        match self._gateway:
            case subprocess.Popen() as process:
                process.stdin.close()
                process.wait(15)
            case Gateway() as gateway:
                gateway.close()
        self._gateway = None

    def _answers(self) -> bool:
        try:
            self._tell("clear")
        except httpx.TransportError:
            return False
        return True

    def _tell(self, what: str, value: Any = None) -> None:
        self._told.post(f"{CONTROL}{what}", json=value).raise_for_status()

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self._folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _login(self, role: str) -> str:
        return self._cluster.url(self.database, user=role)


class _Kind(NamedTuple):
    """What databases can differ in."""

    migrated: bool
    rls: bool
    policies: bool
    old_grants: bool
