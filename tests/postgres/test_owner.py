"""Plain Postgres: an owner who is no superuser, and whom forced row security binds, is served all the same."""

from pathlib import Path

import pytest
from postgres.databases import Database, perdure
from servers.postgres_cluster import PostgresCluster

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Window
from perdure.testing import StoreContract
from perdure.testing.turns import a_turn, answered


@pytest.fixture(scope="module")
def owned(plain: PostgresCluster) -> Database:
    """A database of a role's own, migrated by that role."""
    plain.execute("create role landlord login password 'secret'")
    database = Database.new(plain, owner="landlord").seen_by("landlord", "secret")
    done = perdure("migrate", PERDURE_DATABASE_URL=database.url)
    assert done.returncode == 0, done.stderr
    return database


@pytest.fixture(scope="module")
def of_the_owner(owned: Database) -> None:
    TestStoreOfAnOwnerWhoIsNoSuperuser.database = owned


@pytest.mark.usefixtures("of_the_owner")
class TestStoreOfAnOwnerWhoIsNoSuperuser(StoreContract):
    database: Database

    def make_store(self, clock: Clock, folder: Path) -> PostgresStore:
        return self.database.store(clock=clock)


def test_row_security_does_bind_the_owner_who_is_let_in_by_a_policy_alone(owned: Database) -> None:
    assert owned.execute("select rolsuper, rolbypassrls from pg_roles where rolname = current_user") == [(False, False)]
    assert owned.one("select row_security_active('chat_messages')")
    _tell(owned, "hello")
    with owned.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("drop policy server on chat_messages")
        assert connection.execute("select * from chat_messages").fetchall() == []


def test_a_member_of_the_owners_role_is_served_and_others_are_told_to_become_one(owned: Database) -> None:
    owned.cluster.execute("create role tenant login password 'secret'")
    tenant = owned.seen_by("tenant", "secret")
    with pytest.raises(StoreUnavailable) as refused:
        _tell(tenant, "let me in")
    assert (
        "does not let this user use perdure's tables (permission denied for function begin_turns)" in refused.value.what
    )
    assert refused.value.remedy == "connect as the user who migrated it, or as a member of that role."
    owned.cluster.execute("grant landlord to tenant")
    _tell(owned, "from the owner", "shared")
    assert _tell(tenant, "from the member", "shared") == ["from the owner", "from the member"]


def test_the_owner_searches_and_purges_what_is_everybodys(owned: Database) -> None:
    owned.execute("select purge_expired(100000)")  # what other tests have left
    _tell(owned, "a pin", "searched")
    assert len(owned.one("select search_messages('alice', 'pin')")["hits"]) == 1
    owned.execute("update chat_sessions set expires_at = '2026-01-01' where continuation_id = 'searched'")
    assert owned.one("select purge_expired()") == {"conversations": 1, "files": []}
    assert owned.one("select count(*) from chat_messages where content = 'a pin'") == 0


def test_a_function_of_ours_does_not_trust_a_role_for_its_name_or_for_what_it_owns_elsewhere(owned: Database) -> None:
    owned.cluster.execute("create role service_role_of_theirs login password 'secret'")
    other = owned.seen_by("service_role_of_theirs", "secret")
    owned.cluster.execute("grant usage on schema public to service_role_of_theirs", database=owned.name)
    owned.execute("grant execute on all functions in schema public to service_role_of_theirs")
    owned.execute("grant select on chat_sessions, chat_messages to service_role_of_theirs")
    assert other.one("select chat_trusted()") is False
    with pytest.raises(Exception, match="This token may not act for that user"):
        other.execute("select read_turns('alice', 'c')")
    with pytest.raises(Exception, match="Only a server may purge"):
        other.execute("select purge_expired()")


def _tell(database: Database, prompt: str, continuation_id: str = "c") -> list[str]:
    """One answered turn; the prompts of its conversation then."""
    store = database.store()
    try:
        turn = a_turn(prompt, continuation_id=continuation_id)
        store.begin(turn, Window(turns=1, tokens=1))
        store.finish(answered(turn, "an answer"))
        return [turn.prompt for turn in store.turns("alice", continuation_id)]
    finally:
        store.close()
