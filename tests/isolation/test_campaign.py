"""Two tenants, 10,000 attempts to read or write across, through the store and straight through SQL: none succeeds."""

import pytest
from isolation.campaign import FUNCTIONS, INTERNAL, TABLES, Campaign
from isolation.conftest import Settled


def test_none_of_ten_thousand_attempts_reaches_another_tenant(settled: Settled) -> None:
    attempts = {"store": 2300, "authenticated": 7000, "anon": 1900, "service_role": 3200}
    report = Campaign(settled.project, settled.database, settled.tenants, seed=20261001).run(attempts, look_every=500)
    assert report.leaks == []
    assert report.blind == []
    assert report.total >= 10_000
    for method in ("begin", "finish", "turns", "conversations", "file", "files"):
        assert report.attempts[f"store {method}"] > 100
    for function in FUNCTIONS:
        assert report.attempts[f"authenticated {function}"] > 50
        assert report.attempts[f"anon {function}"] > 5
        assert function in INTERNAL or report.attempts[f"service_role {function}"] > 100
    assert report.refused[""] > 2000, "most attempts fell over their own feet"


def test_every_function_is_attacked_with_every_argument(settled: Settled) -> None:
    """Whoever adds a function or an argument adds it to the campaign."""
    there = settled.project.superuser(
        settled.database,
        "select proname, coalesce(proargnames[:pronargs], '{}') from pg_proc "
        "where pronamespace = 'public'::regnamespace",
    )
    attacked = {name: {*" ".join(arguments).split()} for name, arguments in FUNCTIONS.items()}
    assert {name: {*arguments} - {"at"} for name, arguments in there} == {
        name: arguments - {"at"} for name, arguments in attacked.items()
    }


def test_every_table_is_attacked(settled: Settled) -> None:
    there = settled.project.superuser(
        settled.database,
        "select oid::regclass::text from pg_class where relkind in ('r', 'p', 'v', 'm', 'f', 'S') "
        "and relnamespace = 'public'::regnamespace",
    )
    assert {f"public.{name.removeprefix('public.')}" for (name,) in there} == {
        t for t in TABLES if t.startswith("public.")
    }


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_no_api_role_has_more_rights_than_it_needs(role: str, settled: Settled) -> None:
    """Although the project gives all to these roles on whatever is made in `public`, as older ones do."""
    granted = settled.project.superuser(
        settled.database,
        "select distinct table_name::text, privilege_type::text from information_schema.role_table_grants "
        f"where table_schema = 'public' and grantee in ('{role}', 'PUBLIC') order by 1, 2",
    )
    expected = [
        (table, right) for table in ("chat_files", "chat_messages", "chat_sessions") for right in ("INSERT", "SELECT")
    ]
    expected += [("chat_forks", "SELECT"), ("chat_words", "SELECT"), ("chat_words_due", "INSERT")]
    assert granted == ([] if role == "anon" else sorted(expected))
