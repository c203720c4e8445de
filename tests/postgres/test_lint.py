"""The migrations are linted, by squawk and by rules of our own, and each rule sees the fault that it is there for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from postgres.databases import Database

from perdure.middleware.persistence.migrations.numbered_files import Migration
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations

EXCLUDED = [
    "require-statement-timeout",  # a statement cannot set its own time-out, and each file is one statement
    "prefer-bigint-over-int",  # a file's versions and a turn's tokens stay small, and are twice as dense this way
    "ban-drop-column",  # of a column that no program of ours reads: what it held has a table of its own
    "ban-drop-function",  # it is made anew in the same transaction, under the same signature, which a test holds
    "prefer-bigint-over-smallint",  # the part of a turn is 0 or 1
]

FORBIDDEN = {
    "a file is one transaction, which whoever runs it begins and ends": (
        r"\b(begin|commit|rollback|savepoint\s+\w+|(begin|start)\s+(work|transaction)[^;]*)\s*;"
    ),
    "what is made concurrently cannot be made in a transaction": r"\bconcurrently\b",
    "hosted databases do not let us make extensions": r"\bcreate\s+extension\b",
    "event triggers belong to the database's owner": r"\bevent\s+trigger\b",
    "functions run with the rights of their caller": r"\bsecurity\s+definer\b",
    "row security does not see TRUNCATE": r"^\s*truncate\b|;\s*truncate\b",
    "a DELETE says which rows": r"\bdelete\s+from\b(?![^;]*\bwhere\b)",
    "an UPDATE says which rows": r"\bupdate\s+(only\s+)?[\w.]+(\s+(as\s+)?\w+)?\s+set\b(?![^;]*\bwhere\b)",
    "a function finds nothing by the caller's search_path": (
        r"\bcreate\s+(or\s+replace\s+)?function\b(?![^;]*?\bset\s+search_path\s*=\s*pg_catalog,\s*pg_temp\b[^;]*?\bas\s+\$)"
    ),
    "a function says whose rights it runs with": (
        r"\bcreate\s+(or\s+replace\s+)?function\b(?![^;]*?\bsecurity\s+invoker\b[^;]*?\bas\s+\$)"
    ),
    "nothing that is there already is replaced": r"\bcreate\s+or\s+replace\b",
}

every_file = pytest.mark.parametrize("migration", postgres_migrations(), ids=lambda migration: migration.label)


@every_file
def test_squawk_finds_nothing(migration: Migration) -> None:
    assert _squawk(_statements(migration)) == ""


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("adding-required-field", "alter table chat_messages add column tone text not null;"),
        ("require-concurrent-index-creation", "create index chat_messages_tone on chat_messages (role);"),
        ("changing-column-type", "alter table chat_messages alter column role type varchar(9);"),
        ("renaming-column", "alter table chat_messages rename column role to speaker;"),
        ("syntax-error", "create tabel x ();"),
    ],
)
def test_squawk_sees_a_fault_among_the_statements(rule: str, bad: str) -> None:
    assert f": {rule} " in _squawk(_statements(postgres_migrations()[1]) + bad)


@every_file
def test_our_own_rules_find_nothing(migration: Migration) -> None:
    assert _broken_rules(migration.sql) == []


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("a file is one transaction", "commit;"),
        ("a file is one transaction", "BEGIN;"),
        ("a file is one transaction", "start transaction isolation level serializable;"),
        ("made concurrently", "create index concurrently i on chat_messages (role);"),
        ("extensions", "create extension if not exists pg_trgm;"),
        ("event triggers", "create event trigger t on ddl_command_end execute function f();"),
        ("rights of their caller", "alter function chat_trusted() security definer;"),
        ("TRUNCATE", "truncate public.chat_files;"),
        ("a DELETE says", "delete from public.chat_sessions; select 1 where true;"),
        ("an UPDATE says", "update public.chat_sessions x\n set last_place = 0;"),
        (
            "search_path",
            "create function f() returns int language sql security invoker as $f$ select 1 $f$;",
        ),
        (
            "whose rights",
            "create function f() returns int language sql set search_path = pg_catalog, pg_temp as $f$ select 1 $f$;",
        ),
        (
            "replaced",
            "create or replace function f() security invoker set search_path = pg_catalog, pg_temp as $$ $$;",
        ),
    ],
)
def test_our_own_rules_see_what_they_are_there_for(rule: str, bad: str) -> None:
    (broken,) = _broken_rules(postgres_migrations()[1].sql + bad)
    assert rule in broken


@every_file
def test_a_file_is_one_statement_that_takes_the_lock_and_then_looks_whether_it_ran(migration: Migration) -> None:
    code = _without_comments(migration.sql)
    first_lines = [line for line in code.splitlines() if line.strip()][:3]
    assert first_lines == [
        "do $migration$ begin",
        "set local lock_timeout = '15s';",
        "perform pg_advisory_xact_lock(7305437215021183092);",
    ]
    assert code.count("$migration$") == 2
    assert code.rstrip().endswith("end $migration$;")
    looks = f"if exists (select from public.perdure_migrations where version = {migration.version}) then"
    before, _, _ = migration.sql.partition("-- ── statements ")
    assert looks in before
    assert "create function" not in before


def test_in_the_database_every_function_is_bound_and_every_table_has_row_security(database: Database) -> None:
    database.migrate()
    functions = database.execute("""
        select proname, prosecdef, array_to_string(proconfig, ' ') from pg_proc
         where pronamespace = 'public'::regnamespace
    """)
    counted = [
        migration.sql.count("\ncreate function ") - migration.sql.count("\ndrop function ")
        for migration in postgres_migrations()
    ]
    assert len(functions) == sum(counted)
    assert [name for name, definer, _ in functions if definer] == []
    assert [name for name, _, settings in functions if "search_path=pg_catalog, pg_temp" not in (settings or "")] == []
    writes = {"begin_turn", "finish_turn", "renew_turns", "purge_expired", "delete_conversation"}
    writes |= {
        "remove_expired",
        "remove_conversation",
        "forget_user",
        "begin_turn_up_to",
        "begin_turn_in_line",
        "begin_turns",
        "finish_turns",
        "fork_conversation",
        "keep_words",
    }
    assert {name for name, _, settings in functions if "lock_timeout=1500ms" in settings} == writes
    assert {name for name, _, settings in functions if "plan_cache_mode=force_generic_plan" in settings} == {
        "begin_turns",
        "finish_turns",
    }, "to make a plan of their statements takes longer than to carry them out"
    tables = database.execute("""
        select relname, relrowsecurity, relforcerowsecurity from pg_class
         where relnamespace = 'public'::regnamespace and relkind = 'r' order by relname
    """)
    assert tables == [
        ("chat_files", True, True),
        ("chat_forks", True, True),
        ("chat_messages", True, True),
        ("chat_sessions", True, True),
        ("chat_words", True, True),
        ("chat_words_due", True, True),
        ("perdure_migrations", True, False),
    ]


def _statements(migration: Migration) -> str:
    """What stands inside of the DO block, where a linter would see only a text."""
    _, _, rest = migration.sql.partition("-- ── statements ")
    statements, end, _ = rest.partition("\n-- ── end ")
    assert end, "the file lacks its marks"
    return "set local lock_timeout = '15s';\n--" + statements + "\n"


def _squawk(sql: str) -> str:
    command = [
        Path(sys.executable).with_name("squawk"),
        "--assume-in-transaction",
        "--pg-version=14.0",
        "--reporter=gcc",
    ]
    excluded = [f"--exclude={rule}" for rule in EXCLUDED]
    ended = subprocess.run([*command, *excluded], input=sql, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    return ended.stdout


def _broken_rules(sql: str) -> list[str]:
    code = _without_comments(sql)
    return [rule for rule, pattern in FORBIDDEN.items() if re.search(pattern, code, re.IGNORECASE | re.MULTILINE)]


def _without_comments(sql: str) -> str:
    return re.sub(r"--.*", "", sql)
