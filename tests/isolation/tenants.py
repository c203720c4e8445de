"""Tenants whose every string is marked, so that whatever of them shows up elsewhere is known by its mark."""

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta

from isolation.supabase_like import SupabaseLike

from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import StoredFile, Turn, Window
from perdure.testing.turns import a_turn, answered

HISTORY = Window(20, 100_000)

SHARED_ID = "the-same-id"
"""A continuation id that every tenant has a conversation under."""


@dataclass
class Tenant:
    name: str
    known_ids: list[str] = field(default_factory=list)
    """Continuation ids that an attacker has got hold of."""
    known_turns: list[Turn] = field(default_factory=list)
    known_answer_ids: list[str] = field(default_factory=list)
    known_sessions: list[str] = field(default_factory=list)
    secret_uuids: list[str] = field(default_factory=list)
    """Ids of turns, answers and sessions that no attacker names."""

    @property
    def mark(self) -> str:
        """In every prompt, answer, file name, tool, piece of metadata and secret id; in no attack."""
        return f"canary{self.name}"

    @property
    def known_turn_ids(self) -> list[str]:
        return [turn.id for turn in self.known_turns]

    @property
    def known_files(self) -> list[StoredFile]:
        return [file for turn in self.known_turns for file in turn.files]

    def seen_in(self, text: str) -> str | None:
        """What of this tenant stands in `text`; None if nothing does."""
        as_a_row = (f"'user_id': '{self.name}'", f"principal='{self.name}'")
        found = re.search("|".join([self.mark, *as_a_row, *self.secret_uuids]), text)
        return found and found[0]


def settle(project: SupabaseLike, database: str, *names: str) -> dict[str, Tenant]:
    """Let each of `names` talk and keep files: half of it becomes known to attackers, the other half stays secret."""
    store = PostgresStore(project.url(database))
    tenants = {name: Tenant(name) for name in names}
    try:
        for tenant in tenants.values():
            for number in range(3):
                project.superuser(database, "select public.keep_words()")  # all but those of the last round
                known_id = SHARED_ID if number == 0 else f"{tenant.name}-known-{number}"
                tenant.known_ids.append(known_id)
                tenant.known_turns += [_talk(store, tenant, known_id, f"k{number}{n}", known=True) for n in range(3)]
                for n in range(3):
                    _talk(store, tenant, f"{tenant.mark}-id-{number}", f"s{number}{n}", known=False)
            unfinished = _turn(tenant, tenant.known_ids[1], "open", known=True)
            store.begin(unfinished, HISTORY)
            tenant.known_turns.append(unfinished)
    finally:
        store.close()
    for tenant in tenants.values():
        for session, continuation_id in project.superuser(
            database, f"select id::text, continuation_id from public.chat_sessions where user_id = '{tenant.name}'"
        ):
            (tenant.known_sessions if continuation_id in tenant.known_ids else tenant.secret_uuids).append(session)
        for message, part, session in project.superuser(
            database,
            f"select id::text, part, session_id::text from public.chat_messages where user_id = '{tenant.name}'",
        ):
            if session not in tenant.known_sessions:
                tenant.secret_uuids.append(message)
            elif part == 1:
                tenant.known_answer_ids.append(message)
        project.superuser(
            database,
            "insert into storage.objects (bucket_id, name, metadata) select distinct bucket, key, "
            f"""'{{"of": "{tenant.mark}"}}'::jsonb from public.chat_files where user_id = '{tenant.name}'""",
        )
    project.superuser(database, "analyze")
    return tenants


def checksum(project: SupabaseLike, database: str, tenant: Tenant) -> str:
    """Of all rows that are the tenant's or stand in a conversation of his."""
    theirs = f"user_id = '{tenant.name}'"
    inside = f"session_id in (select id from public.chat_sessions where {theirs})"
    rows = " union all ".join(
        f"select t::text as r from {table} t where {where}"
        for table, where in {
            "public.chat_sessions": theirs,
            "public.chat_messages": f"{theirs} or {inside}",
            "public.chat_files": f"{theirs} or {inside}",
            "public.chat_words": theirs,
            "public.chat_words_due": f"message_id in (select id from public.chat_messages where {theirs})",
            "storage.objects": f"name like '{tenant.name}/%'",
        }.items()
    )
    ((total,),) = project.superuser(
        database, f"select count(*) || md5(string_agg(r, ',' order by r)) from ({rows}) all_rows"
    )
    return str(total)


def _talk(store: Store, tenant: Tenant, continuation_id: str, what: str, *, known: bool) -> Turn:
    turn = _turn(tenant, continuation_id, what, known=known)
    store.begin(turn, HISTORY)
    store.finish(answered(turn, f"{tenant.mark} answers {what}"))
    return turn


def _turn(tenant: Tenant, continuation_id: str, what: str, *, known: bool) -> Turn:
    name = f"{tenant.name}-report-{what}.txt" if known else f"{tenant.mark}-{what}.txt"
    sha256 = hashlib.sha256(f"{tenant.name} {what}".encode()).hexdigest()
    file = StoredFile(
        key=f"{tenant.name}/{sha256}/{name}",
        bucket="mcp-files",
        name=name,
        sha256=sha256,
        size=len(what),
        media_type=f"text/x-{tenant.mark}",
    )
    turn = a_turn(
        f"{tenant.mark} asks {what}",
        continuation_id=continuation_id,
        principal=tenant.name,
        tool=f"{tenant.mark}_tool",
        metadata={"note": f"{tenant.mark} {what}"},
        files=(file,),
    )
    return replace(turn, lease_until=turn.started_at + timedelta(days=9000))
