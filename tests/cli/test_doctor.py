"""`perdure doctor`, run as its user runs it: what is wrong is named, with a remedy, and no key is ever shown."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.conftest import Ran as CommandRan
from cli.kept_data import Data
from servers.gateway_faults import hang, html, trickle
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations

RPC = "/rest/v1/rpc/"
ALL = [
    "settings",
    "data directory",
    "spool",
    "project",
    "key",
    "schema",
    "row security",
    "clock",
    "round trip",
    "write and read",
    "bucket",
    "bucket's limit",
    "quota",
    "upload and download",
]


@pytest.fixture(scope="module")
def stack(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    """Migrated, and as it must be; a test that changes more than rows takes `supabase`."""
    with SupabaseStack(supabase_cluster) as made:
        yield made


class Ran:
    """One run, and what is true of every run: whatever failed has a remedy, and no secret is told."""

    def __init__(self, done: "subprocess.CompletedProcess[str]", secrets: list[str]) -> None:
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        for secret in secrets:
            for piece in (secret, secret[len(secret) // 2 :]):
                assert piece not in self.stdout + self.stderr
        assert "Traceback" not in self.stderr
        self.checks = {}
        if self.stdout.startswith("{"):
            said = json.loads(self.stdout)
            self.checks = {check["check"]: check for check in said["checks"]}
            failed = [check for check in said["checks"] if check["verdict"] == "failed"]
            assert all(check["remedy"] for check in said["checks"] if check["verdict"] in ("failed", "warning"))
            assert said["ok"] is (not failed)
            assert self.code == (1 if failed else 0)

    @property
    def failed(self) -> set[str]:
        return {name for name, check in self.checks.items() if check["verdict"] == "failed"}

    @property
    def verdicts(self) -> set[str]:
        """All but what is said of the place of the data directory, which is this machine's."""
        return {check["verdict"] for name, check in self.checks.items() if name != "data directory"}

    def verdict(self, check: str) -> str:
        return self.checks[check]["verdict"]

    def of(self, check: str) -> str:
        return f"{self.checks[check]['what']} {self.checks[check]['remedy']}"


def run(*arguments: str, secrets: list[str] | None = None, **environment: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", "doctor", *arguments],
        env={**os.environ, "COLUMNS": "300", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(done, secrets or [])


def doctor(stack: SupabaseStack, *arguments: str, key: str | None = None, **environment: str) -> Ran:
    key = key or stack.secret_key
    given = {"USE_SUPABASE": "true", "SUPABASE_URL": stack.url, "SUPABASE_KEY": key, **environment}
    return run(*arguments, secrets=[key, stack.secret_key, stack.service_key], **given)


def left_behind(stack: SupabaseStack) -> int:
    [(rows,)] = stack.execute(
        "select (select count(*) from chat_sessions) + (select count(*) from chat_messages)"
        " + (select count(*) from chat_files) + (select count(*) from storage.objects)"
    )
    return int(rows)


# ── all well ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["secret_key", "service_key"])
def test_a_project_as_it_must_be_is_found_well_and_nothing_is_left_behind(stack: SupabaseStack, kind: str) -> None:
    stack.empty()
    ran = doctor(stack, key=getattr(stack, kind))
    assert (ran.code, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    if lines[1].startswith("warning"):
        del lines[1:3]  # this machine's temp directory is in memory or in a container: true, and no fault
    else:
        del lines[1]
    assert [line.partition(":")[0] for line in lines[:-2]] == [
        f"ok      {name}" for name in ALL if name != "data directory"
    ]
    assert lines[-1] == "All is well."
    assert left_behind(stack) == 0
    asked = {request.path for request in stack.requests}
    assert {f"{RPC}begin_turn_in_line", f"{RPC}finish_turn", f"{RPC}delete_conversation"} <= asked


def test_programs_are_told_the_same(stack: SupabaseStack) -> None:
    ran = doctor(stack, "--json")
    assert list(ran.checks) == ALL
    assert ran.verdicts == {"ok"}
    assert json.loads(ran.stdout)["backend"] == "supabase"


def test_what_users_keep_is_neither_shown_nor_touched(stack: SupabaseStack) -> None:
    stack.empty()
    stack.execute("insert into chat_sessions (continuation_id, user_id) values ('secret-plans', 'alice')")
    ran = doctor(stack)
    assert ran.code == 0
    assert "secret-plans" not in ran.stdout
    assert "alice" not in ran.stdout
    assert left_behind(stack) == 1


# ── address and key ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_address_is_out_of_reach(stack: SupabaseStack) -> None:
    ran = doctor(stack, "--json", SUPABASE_URL="http://127.0.0.1:9", PERDURE_OPERATION_TIMEOUT="1")
    assert ran.failed == {"schema", "bucket"}
    assert "cannot be reached" in ran.of("schema")
    assert "SUPABASE_URL" in ran.of("schema")


def test_an_address_that_is_none_is_not_repeated(stack: SupabaseStack) -> None:
    ran = doctor(stack, "--json", SUPABASE_URL="https://user:hunter2@db.example.com")
    assert ran.failed == {"project"}
    assert "hunter2" not in ran.stdout + ran.stderr


def test_a_service_that_is_not_supabase_is_told_apart_from_an_empty_project(stack: SupabaseStack) -> None:
    stack.order(html().on("/", times=None))
    try:
        ran = doctor(stack, "--json", PERDURE_OPERATION_TIMEOUT="1")
    finally:
        stack.clear_faults()
    assert {"schema", "bucket"} <= ran.failed


@pytest.mark.parametrize("missing", ["SUPABASE_URL", "SUPABASE_KEY"])
def test_a_setting_that_is_missing_is_named(stack: SupabaseStack, missing: str) -> None:
    ran = doctor(stack, "--json", **{missing: ""})
    assert ran.failed == {"project"}
    assert missing in ran.of("project")


def test_a_wrong_key_is_refused(stack: SupabaseStack) -> None:
    ran = doctor(stack, "--json", key="sb_secret_of_another_project_altogether")
    assert ran.failed == {"schema", "bucket"}
    assert "refused the key" in ran.of("schema")
    assert "SUPABASE_KEY" in ran.of("schema")


@pytest.mark.parametrize("kind", ["anon_key", "publishable_key"])
def test_a_key_for_browsers_is_named_as_one(stack: SupabaseStack, kind: str) -> None:
    ran = doctor(stack, "--json", key=getattr(stack, kind))
    assert {"key", "schema"} <= ran.failed
    assert ("anon key" if kind == "anon_key" else "publishable key") in ran.of("key")
    assert "sb_secret_" in ran.of("key")


def test_a_key_that_expired_says_when(stack: SupabaseStack) -> None:
    key = stack.keys.signed({"role": "service_role", "iss": "supabase", "exp": 1_577_836_800})
    ran = doctor(stack, "--json", key=key)
    assert "key" in ran.failed
    assert "expired on 2020-01-01" in ran.of("key")


def test_a_users_token_is_told_from_a_servers_key(stack: SupabaseStack) -> None:
    ran = doctor(stack, "--json", key=stack.user_token("alice"))
    assert ran.verdict("key") == "warning"
    assert "one user" in ran.of("key")


# ── schema ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_project_that_was_not_migrated_says_what_to_run_and_fix_runs_it(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, migrated=False) as bare:
        ran = doctor(bare, "--json")
        assert {"schema", "bucket"} <= ran.failed
        assert "perdure migrate" in ran.of("schema")
        assert "perdure migrate" in ran.of("bucket")

        without_address = doctor(bare, "--json", "--fix")
        assert without_address.verdict("schema") == "failed"
        assert "perdure migrate" in without_address.of("schema")

        ran = doctor(bare, "--json", "--fix", PERDURE_DATABASE_URL=bare.db_url)
        assert ran.failed == set()
        assert ran.verdict("schema") == "fixed"
        assert f"{len(postgres_migrations())} migrations run" in ran.of("schema")
        assert left_behind(bare) == 0

        assert doctor(bare, "--json").verdicts == {"ok"}


def test_a_fix_that_fails_is_a_finding_and_not_the_end(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, migrated=False) as bare:
        address = "postgresql://owner:hunter2@127.0.0.1:9/postgres"
        ran = doctor(bare, "--json", "--fix", PERDURE_DATABASE_URL=address)
    assert "schema" in ran.failed
    assert "hunter2" not in ran.stdout + ran.stderr
    assert "bucket" in ran.checks, "the other looks are taken all the same"


@pytest.mark.parametrize("table", ["chat_sessions", "chat_messages", "chat_files"])
def test_row_security_that_is_off_on_one_table_is_found(supabase: SupabaseStack, table: str) -> None:
    supabase.execute(f"alter table {table} disable row level security")
    ran = doctor(supabase, "--json")
    assert ran.failed == {"row security"}
    assert "enable row level security" in ran.of("row security")


def test_a_newer_schema_asks_for_a_newer_perdure(supabase: SupabaseStack) -> None:
    supabase.execute("insert into perdure_migrations (version, name, checksum) values (99, 'later', 'x')")
    ran = doctor(supabase, "--json", "--fix", PERDURE_DATABASE_URL=supabase.db_url)
    assert "schema" in ran.failed
    assert "upgrade perdure" in ran.of("schema")


# ── bucket ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_public_bucket_is_found_and_fix_makes_it_private(supabase: SupabaseStack) -> None:
    supabase.execute("update storage.buckets set public = true where id = 'mcp-files'")
    ran = doctor(supabase, "--json")
    assert ran.failed == {"bucket"}
    assert "public" in ran.of("bucket")

    ran = doctor(supabase, "--json", "--fix")
    assert (ran.failed, ran.verdict("bucket")) == (set(), "fixed")
    assert supabase.execute("select public, file_size_limit from storage.buckets where id = 'mcp-files'") == [
        (False, 52_428_800)
    ]
    assert left_behind(supabase) == 0


def test_a_missing_bucket_is_found_and_fix_makes_it(supabase: SupabaseStack) -> None:
    ran = doctor(supabase, "--json", SUPABASE_STORAGE_BUCKET="our-files")
    assert ran.failed == {"bucket"}
    assert "SUPABASE_STORAGE_BUCKET" in ran.of("bucket")

    ran = doctor(supabase, "--json", "--fix", SUPABASE_STORAGE_BUCKET="our-files")
    assert (ran.failed, ran.verdict("bucket")) == (set(), "fixed")
    assert supabase.execute("select public, file_size_limit from storage.buckets where id = 'our-files'") == [
        (False, 52_428_800)
    ]


def test_a_bucket_that_takes_less_than_the_settings_allow_is_a_warning(supabase: SupabaseStack) -> None:
    supabase.execute("update storage.buckets set file_size_limit = 1000000 where id = 'mcp-files'")
    ran = doctor(supabase, "--json")
    assert (ran.code, ran.verdict("bucket's limit")) == (0, "warning")
    assert "max_file_bytes" in ran.of("bucket's limit")
    assert "1.0 MB" in ran.of("bucket's limit")


def test_a_bucket_that_is_nearly_full_is_a_warning(supabase: SupabaseStack) -> None:
    supabase.execute(
        "insert into storage.objects (bucket_id, name, version, metadata)"
        """ values ('mcp-files', 'alice/x/y', 'v', '{"size": 950000000}')"""
    )
    ran = doctor(supabase, "--json")
    assert (ran.code, ran.verdict("quota")) == (0, "warning")
    assert "max_total_bytes" in ran.of("quota")


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slow_project_is_a_warning(stack: SupabaseStack) -> None:
    stack.order(trickle("headers", 0.0016).on(f"{RPC}store_status", times=None))
    try:
        ran = doctor(stack, "--json")
    finally:
        stack.clear_faults()
    assert (ran.code, ran.verdict("round trip")) == (0, "warning")
    assert "region" in ran.of("round trip")


def test_a_project_that_does_not_answer_in_time_has_failed(stack: SupabaseStack) -> None:
    stack.order(hang().on(RPC))
    try:
        ran = doctor(stack, "--json", PERDURE_OPERATION_TIMEOUT="1")
    finally:
        stack.clear_faults()
    assert ran.failed == {"schema"}
    assert "did not answer in time" in ran.of("schema")
    assert "operation_timeout" in ran.of("schema")


# ── for people, and other backends ───────────────────────────────────────────────────────────────────────────


def test_people_are_told_the_remedy_below_what_failed(supabase: SupabaseStack) -> None:
    supabase.execute("update storage.buckets set public = true where id = 'mcp-files'")
    ran = doctor(supabase)
    assert ran.code == 1
    lines = ran.stdout.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("failed")]
    assert lines[at].startswith("failed  bucket: mcp-files is public")
    assert lines[at + 1].startswith("        Remedy: make it private")
    assert lines[-1] == "1 of 11 checks failed."
    assert "\x1b" not in ran.stdout


def test_the_embedded_database_is_looked_at_and_not_made(tmp_path: Path) -> None:
    ran = run("--json", PERDURE_DATA_DIR=str(tmp_path / "data"))
    assert (ran.code, list(ran.checks)) == (0, ["settings", "data directory", "spool", "database"])
    assert list((tmp_path / "data").iterdir()) == []


def test_a_broken_embedded_database_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "perdure.db").write_bytes(b"this is no database, and never was one" * 100)
    assert run("--json", PERDURE_DATA_DIR=str(tmp_path / "data")).failed == {"database"}


def test_a_data_directory_that_cannot_be_written_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").touch()
    ran = run("--json", PERDURE_DATA_DIR=str(tmp_path / "in-the-way" / "data"))
    assert "data directory" in ran.failed


def test_a_backend_that_forgets_is_a_warning() -> None:
    ran = run("--json", PERDURE_BACKEND="memory")
    assert (ran.code, ran.verdict("database")) == (0, "warning")


def test_postgres_is_looked_at_in_the_same_way(database_url: str) -> None:
    ran = run("--json", PERDURE_BACKEND="postgres", PERDURE_DATABASE_URL=database_url)
    assert list(ran.checks) == [*ALL[:3], *ALL[5:10]]
    assert ran.verdicts == {"ok"}


def test_postgres_is_migrated_by_fix(postgres: PostgresCluster) -> None:
    url = postgres.url(postgres.create_database("doctor_bare"))
    ran = run("--json", PERDURE_BACKEND="postgres", PERDURE_DATABASE_URL=url)
    assert ran.failed == {"schema"}
    assert "perdure migrate" in ran.of("schema")
    ran = run("--json", "--fix", PERDURE_BACKEND="postgres", PERDURE_DATABASE_URL=url)
    assert (ran.failed, ran.verdict("schema")) == (set(), "fixed")


def test_a_postgres_that_is_away_or_unnamed_has_a_remedy_and_tells_no_password() -> None:
    address = "postgresql://owner:hunter2@127.0.0.1:9/postgres"
    away = run("--json", secrets=["hunter2"], PERDURE_BACKEND="postgres", PERDURE_DATABASE_URL=address)
    assert away.failed == {"schema"}
    assert run("--json", PERDURE_BACKEND="postgres").failed == {"database"}


def test_in_a_terminal_lines_end_between_words_and_elsewhere_nowhere(
    data: Data, perdure: Callable[..., CommandRan], monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = perdure("doctor").out
    assert f"{data.folder} can be written.\n" in piped
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", perdure("doctor").out)
    assert shown.split() == piped.split()
    lines = [line for line in shown.splitlines() if str(data.folder) not in line]
    assert max(map(len, lines)) <= 60
    assert all(line.startswith(("ok      ", "        ", "All")) for line in shown.splitlines() if line)
