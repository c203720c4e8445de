"""A generated campaign of attempts to reach another tenant's rows: every attempt is judged by what comes back and by
what has become of the victims' rows.

Four ways in: through the store (with its trusted connection), straight through SQL as `authenticated`, as `anon`, and
through the functions as `service_role`.
"""

import contextlib
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from isolation.supabase_like import Api, Reply, SupabaseLike, token
from isolation.tenants import HISTORY, Tenant, checksum

from perdure.errors import PerdureError
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import StoredFile
from perdure.testing.turns import a_turn, answered

HOSTILE = (
    "mallory", "alice ", " alice", "ALICE", "Alice", "alice%", "al%", "_lice", "alic", "alicee", "bo", "bobb", "",
    "alice\n", "alice\t", "alice\0", "alice\0mallory", "\ud800", "аlice", "ａｌｉｃｅ", "ali\u200bce", "alice\u0301",
    "álice", "client:alice", "subject:alice", "local", "anonymous", "null", "alice'--", "' or true --", '"alice"',
    "alice' or user_id='bob", "alice;reset role", "$$alice$$", "\\alice", "{alice,bob}", "alice" * 5000, "%", "*",
    "anon", "service_role", "project_owner",
)  # fmt: skip

_SENDABLE = tuple(name for name in HOSTILE if not {"\0", "\ud800"} & set(name))
"""Those that can travel in a text of the protocol at all."""

CLAIMS = (
    None, "", "{}", "null", "[]", '"alice"', "alice", '{"sub": null}', '{"sub": 42}', '{"sub": true}', '{"sub": ""}',
    '{"sub": {"sub": "alice"}}', '{"sub": ["alice"]}', '{"sub": "alice"', '{"SUB": "alice"}',
    '{"user": {"sub": "alice"}}',
    '[{"sub": "alice"}]', '{"sub": "alice", "sub": "mallory"}', '{"sub": "alice\\u0000"}', '{"sub": "\\ud800"}',
    '{"email": "alice", "role": "service_role"}', '{"role": "project_owner", "sub": "mallory"}', "{'sub': 'alice'}",
)  # fmt: skip
"""What stands in `request.jwt.claims`, besides a token that names a hostile subject. None of it names a victim."""

TABLES: Mapping[str, Sequence[str]] = {
    "public.chat_sessions": ("id", "continuation_id", "user_id", "metadata", "last_place", "updated_at"),
    "public.chat_messages": ("id", "session_id", "turn_id", "content", "body", "user_id", "tool", "digest", "metadata"),
    "public.chat_files": ("session_id", "turn_id", "user_id", "name", "key", "sha256", "media_type"),
    "public.chat_forks": ("session_id", "parent_id", "user_id"),
    "public.chat_words": ("message_id", "turn_id", "user_id", "words"),
    "public.chat_words_due": ("message_id", "changed"),
    "storage.objects": ("id", "bucket_id", "name", "metadata"),
    "public.perdure_migrations": ("version", "name", "checksum"),
}

FUNCTIONS: Mapping[str, tuple[str, str]] = {
    "begin_turn": (
        "turn_id user_id continuation_id tool digest content body started_at lease_until",
        "metadata minted adopt fresh_id after_place deferred max_turns max_tokens expires_at",
    ),
    "finish_turn": (
        "turn_id answer_id user_id digest outcome answer answer_body tokens ended_at",
        "files continuation_id tool content body started_at lease_until metadata minted adopt fresh_id "
        "after_place deferred expires_at",
    ),
    "renew_turns": ("turns lease_until", ""),
    "read_turns": ("user_id continuation_id", "after_place max_turns"),
    "list_conversations": ("user_id", "continuation_id before_at before_user before_id max_lines"),
    "list_conversations_with_ends": ("user_id", "continuation_id before_at before_user before_id max_lines"),
    "list_files": ("user_id", "continuation_id name key max_lines"),
    "search_messages": ("user_id query", "tool outcome since until max_hits"),
    "chat_turns": ("principal session places", ""),
    "chat_keep_file": ("session turn principal kept_at file", ""),
    "chat_principal": ("asked", ""),
    "chat_subject": ("", ""),
    "chat_tenant": ("principal", ""),
    "chat_trusted": ("", ""),
    "chat_prepare_storage": ("", ""),
    "purge_expired": ("", "max_conversations at"),
    "delete_conversation": ("user_id continuation_id", ""),
    "find_messages": (
        "user_id",
        "words continuation_id tool outcome since until before_at before_turn before_part max_hits",
    ),
    "chat_remove": ("gone moment dry_run", ""),
    "chat_only_for_forks": ("session continuation_id last_place", ""),
    "chat_line": ("session", ""),
    "chat_joined": ("lists", ""),
    "begin_turn_up_to": (
        "last_place turn_id user_id continuation_id tool digest content body started_at lease_until",
        "metadata minted adopt fresh_id after_place deferred max_turns max_tokens expires_at",
    ),
    "chat_heir": ("session place moment", ""),
    "begin_turn_in_line": (
        "turn_id user_id continuation_id tool digest content body started_at lease_until",
        "metadata minted adopt fresh_id after_place deferred max_turns max_tokens expires_at",
    ),
    "read_turns_in_line": ("user_id continuation_id", "after_place max_turns"),
    "begin_turns": ("beginnings", ""),
    "finish_turns": ("endings", ""),
    "fork_conversation": ("user_id continuation_id fork_place new_id", "minted"),
    "remove_expired": ("", "max_conversations dry_run at"),
    "remove_conversation": ("user_id continuation_id", ""),
    "forget_user": ("user_id", "max_conversations"),
    "store_statistics": ("user_id", ""),
    "store_status": ("", "bucket"),
    "keep_words": ("", "max_messages after only_if_wanted"),
    "chat_found": ("wanted principal", ""),
    "chat_await_words": ("", ""),
}
"""Names of arguments: those that are always given, and those that may be."""

INTERNAL = (
    "chat_principal", "chat_subject", "chat_tenant", "chat_trusted", "chat_prepare_storage", "purge_expired",
    "store_status", "chat_remove", "remove_expired", "forget_user",
    "chat_only_for_forks", "chat_line", "chat_joined", "chat_found", "keep_words",
)  # fmt: skip
"""For `service_role` these have no principal to keep to; see `test_indirect_attacks` and `test_functions`."""

INJECTIONS = (
    "' or true --", "$1 or true", "') or true --", " and true or f.user_id = 'alice'", "'; reset role; --", "%", "_%",
    "*", "canary'||'alice", "\\", "$$", "x' union select content from public.chat_messages --", "f.key",
    "s.continuation_id",
)  # fmt: skip


@dataclass
class Report:
    attempts: Counter[str] = field(default_factory=Counter)
    """By way in and method or verb."""
    leaks: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    """Where the attacker could not even see or write what is his own: what proves nothing about others' rows."""
    refused: Counter[str] = field(default_factory=Counter)
    """By SQLSTATE; "" where the request went through."""

    @property
    def total(self) -> int:
        return self.attempts.total()

    def of(self, way: str) -> int:
        return sum(n for name, n in self.attempts.items() if name.startswith(way + " "))


class Campaign:
    """Seeded: the same seed makes the same attempts on the same rows, but for the ids of turns."""

    def __init__(self, project: SupabaseLike, database: str, tenants: Mapping[str, Tenant], *, seed: int) -> None:
        self._project = project
        self._database = database
        self._tenants = tenants
        self._random = random.Random(seed)
        self.report = Report()

    def run(self, attempts: Mapping[str, int], *, stop_at_first: bool = False, look_every: int = 250) -> Report:
        """Make so many `attempts` by each way in: "store", "authenticated", "anon", "service_role".

        Args:
            look_every: After so many attempts it is looked whether rows were changed.
        """
        before = {name: self._checksum(name) for name in ("alice", "bob")}
        with contextlib.ExitStack() as until_the_end:
            api = until_the_end.enter_context(self._project.api(self._database))
            store = PostgresStore(self._project.url(self._database))
            until_the_end.callback(store.close)
            _plant(api)
            ways: dict[str, Callable[[], None]] = {
                "store": lambda: self._through_store(store),
                "authenticated": lambda: self._as_authenticated(api),
                "anon": lambda: self._as_anon(api),
                "service_role": lambda: self._as_service_role(api),
            }
            plan = [way for way, count in attempts.items() for _ in range(count)]
            self._random.shuffle(plan)
            for number, way in enumerate(plan):
                ways[way]()
                if number % look_every == look_every - 1:
                    self._look_at_own_rows(api, store, set(attempts))
                    self._look_for_changes(before)
                if stop_at_first and (self.report.leaks or self.report.blind):
                    break
            self._look_at_own_rows(api, store, set(attempts))
        self._look_for_changes(before)
        return self.report

    # ── through the store ────────────────────────────────────────────────────────────────────────────────────────

    def _through_store(self, store: PostgresStore) -> None:
        pick = self._random.choice
        victim, principal = self._victim(), self._attacker()
        method = pick(("begin", "finish", "finish", "turns", "conversations", "file", "files"))
        continuation_id = self._continuation_id(victim)
        known = pick(victim.known_turns)
        turn = a_turn(
            pick(("hello", *INJECTIONS)),
            continuation_id=continuation_id,
            principal=principal,
            id=pick((known.id, pick(victim.known_answer_ids), str(uuid.uuid4()))),
            digest=pick((known.digest, "of-my-own")),
            minted=pick((True, False)),
            adopt=pick((True, False)),
            fresh_id=pick(("fresh", pick(victim.known_ids))),
            place=pick((None, 1, 2)),
            after_place=pick((None, 1)),
        )
        turn = replace(turn, files=tuple(self._forged(victim) for _ in range(self._random.randrange(3))))
        before = pick(
            (
                None,
                (datetime.now(UTC), victim.name, pick(victim.known_ids)),
                (datetime.max.replace(tzinfo=UTC), "\U0010ffff", "~"),
            )
        )
        attempt: dict[str, Callable[[], object]] = {
            "begin": lambda: store.begin(turn, HISTORY),
            "finish": lambda: store.finish(answered(turn, "mine")),
            "turns": lambda: store.turns(principal, continuation_id, after=pick((0, -1, 1)), limit=1000),
            "conversations": lambda: store.conversations(
                principal, pick((None, continuation_id)), before=before, limit=1000
            ),
            "file": lambda: store.file(principal, pick((pick(victim.known_files).key, f"{victim.name}/%", "%"))),
            "files": lambda: store.files(
                principal, pick((None, continuation_id)), pick((None, pick(victim.known_files).name, *INJECTIONS))
            ),
        }
        self.report.attempts[f"store {method}"] += 1
        try:
            said = repr(attempt[method]())
        except PerdureError as error:
            said = "\n".join(_everything_said(error))
        self._judge(f"store.{method} as {principal[:40]!r}", said)

    # ── straight through SQL ─────────────────────────────────────────────────────────────────────────────────────

    def _as_authenticated(self, api: Api) -> None:
        self._by_function_or_statement(api, "authenticated")

    def _as_anon(self, api: Api) -> None:
        function, statement, reply = self._by_function_or_statement(api, "anon")
        if reply.error is None and "storage." not in statement:  # Supabase lets anon ask there, and policies answer
            self.report.leaks.append(f"anon {function}: answered {reply.text[:80]!r} to {statement[:200]}")

    def _as_service_role(self, api: Api) -> None:
        functions = [name for name in FUNCTIONS if name not in INTERNAL]
        function, statement, arguments = self._function_call(self._victim(), functions, anybody=False)
        self._request(api, "service_role", self._attacker(), function, statement, arguments)

    def _by_function_or_statement(self, api: Api, role: str) -> tuple[str, str, Reply]:
        attacker = self._attacker()
        arguments: list[object] = []
        if self._random.random() < 0.4:
            what, statement, arguments = self._function_call(self._victim(), list(FUNCTIONS), anybody=True)
        else:
            what, statement = self._statement(self._victim(), attacker if attacker in _SENDABLE else "mallory")
        return what, statement, self._request(api, role, attacker, what, statement, arguments)

    def _request(
        self, api: Api, role: str, attacker: str, what: str, statement: str, arguments: Sequence[object] = ()
    ) -> Reply:
        claims = self._random.choice(CLAIMS) if self._random.random() < 0.2 else token(attacker)
        self.report.attempts[f"{role} {what}"] += 1
        reply = api.request(statement, arguments, role=role, claims=claims)
        self.report.refused[reply.state or ""] += 1
        self._judge(f"{role}: {statement[:300]} {list(arguments)!r:.300} with claims {claims!r:.80}", reply.text)
        return reply

    def _statement(self, victim: Tenant, attacker: str) -> tuple[str, str]:
        """A verb, and a statement of it on any table."""
        pick = self._random.choice
        table = pick(list(TABLES))
        columns = TABLES[table]
        where = self._where(victim, table)
        loot = pick(
            ("*", "t", "t::text", "to_jsonb(t)", "row_to_json(t)", *columns, f"string_agg(t::text, '{pick('|,')}')",
             f"max({pick(columns)}::text)", "array_agg(t)", f"pg_temp.leak({pick(columns)}::text)")
        )  # fmt: skip
        column = pick(columns)
        select = f"select {loot} from {table} t {where}"
        theirs = self._where_theirs(victim, table)
        proof = f"select 'canary' || '{victim.name}' where exists (select from {table} t {theirs})"
        statements = {
            "select": select,
            "exists": proof,
            "join": f"select m.*, s.*, f.* from public.chat_sessions s full join public.chat_messages m on true "
            f"full join public.chat_files f on pg_temp.leak(m::text || f::text) where s.user_id = '{victim.name}'",
            "lateral": f"select l.* from public.chat_sessions s, lateral (select t::text from {table} t {where}) l",
            "lock": f"select t.* from {table} t {where} for {pick(('update', 'share', 'no key update', 'key share'))}",
            "explain": f"explain (analyze, verbose, costs off, timing off, summary off) {select}",
            "cursor": f"declare c cursor for {select}; fetch all from c; close c",
            "prepare": f"deallocate all; prepare p as {select}; execute p",
            "temp": f"create temp table loot on commit drop as {select}; select * from loot",
            "view": f"create temp view v as select t::text from {table} t {where}; select * from v; drop view v",
            "dynamic": f"do $x$ declare r text; begin for r in select t::text from {table} t {where} loop "
            "raise notice '%', r; end loop; end $x$",
            "xml": f"select query_to_xml($q${select}$q$, true, true, '')",
            "stat": "select * from ts_stat('select words from public.chat_words')",
            "error": f"select ({column}::text)::numeric from {table} t {where}",
            "update": f"update {table} t set {column} = {column} {where} returning t.*",
            "update_granted": f"update public.chat_sessions t set last_place = 7, updated_at = now(), "
            f"continuation_id = 'stolen-' || t.id, expires_at = now() "
            f"{self._where_theirs(victim, 'public.chat_sessions')} returning t.*",
            "update_lease": f"update public.chat_messages t set lease_until = '2400-01-01Z' "
            f"{self._where_theirs(victim, 'public.chat_messages')} returning t.*",
            "give_away": f"update public.chat_sessions t set user_id = '{victim.name}' returning t.*",
            "delete": f"delete from {table} t {where} returning t.*",
            "truncate": f"truncate {table} cascade",
            "merge": f"merge into {table} t using (select 1) x on true when matched then delete",
            "insert": self._insert(victim, attacker, table),
            "insert_returning": f"{self._insert(victim, attacker, table)} returning *",
            "upsert": f"{self._insert(victim, attacker, table)} on conflict do nothing returning *",
            "overwrite": f"insert into public.chat_sessions (id, continuation_id, user_id) values "
            f"('{pick(victim.known_sessions)}', 'x', '{pick((victim.name, 'mallory'))}') on conflict (id) do update "
            "set continuation_id = 'stolen', last_place = 0 returning *",
        }  # fmt: skip
        verb = pick(list(statements))
        return verb, statements[verb]

    def _where(self, victim: Tenant, table: str) -> str:
        pick = self._random.choice
        column = pick(TABLES[table])
        return pick(
            (
                "",
                self._where_theirs(victim, table),
                "where true or t is null",
                f"where pg_temp.leak({column}::text)",
                f"where pg_temp.leak(t::text) and {column} is not null",
                f"where t.* operator(pg_temp.<<<) t.* and {column}::text > ''",
                f"where {column}::text like 'canary%' or {column}::text ~ 'ca.ary'",
                f"where 1 / (case when {column}::text like '%nary%' then 0 else 1 end) = 1",
                f"where {column}::text::bigint = 1",
                "where current_setting('request.jwt.claims', true) is not null or true",
            )
        )

    def _where_theirs(self, victim: Tenant, table: str) -> str:
        if table == "public.perdure_migrations":
            return "where false"
        if table == "storage.objects":
            return f"where t.name like '{victim.name}/%'"
        messages = ", ".join(f"'{message}'" for message in victim.known_turn_ids + victim.known_answer_ids)
        if table == "public.chat_words_due":
            return f"where t.message_id in ({messages})"
        if table == "public.chat_words":
            return f"where t.user_id = '{victim.name}' or t.message_id in ({messages}) and t.user_id <> 'mallory'"
        wheres = [f"where t.user_id = '{victim.name}'", f"where t.user_id in ('{victim.name}') and t::text <> ''"]
        sessions = ", ".join(f"'{session}'" for session in victim.known_sessions)
        of_session = "id" if table == "public.chat_sessions" else "session_id"
        wheres.append(f"where t.{of_session} in ({sessions}) and t.user_id <> 'mallory'")
        return self._random.choice(wheres)

    def _insert(self, victim: Tenant, attacker: str, table: str) -> str:
        pick = self._random.choice
        session, turn = pick(victim.known_sessions), pick((pick(victim.known_turn_ids), str(uuid.uuid4())))
        message = pick((turn, pick(victim.known_answer_ids), str(uuid.uuid4())))
        user = pick((victim.name, attacker, attacker)).replace("'", "''")
        continuation_id, number = pick((pick(victim.known_ids), "planted")), self._random.randrange(1, 99)
        match table:
            case "public.chat_sessions":
                fresh = pick((session, str(uuid.uuid4())))
                values = f"'{fresh}', '{continuation_id}', '{user}'"
                return f"insert into {table} (id, continuation_id, user_id) values ({values})"
            case "public.chat_messages":
                part = pick((0, 1))
                ending = "'chat', 'd', null" if part == 0 else "null, null, 'answered'"
                role = "user" if part == 0 else "assistant"
                return (
                    f"insert into {table} (id, session_id, turn_id, turn_seq, part, role, content, user_id, tool, "
                    "digest, outcome) "
                    f"values ('{message}', '{session}', '{turn}', {number}, "
                    f"{part}, '{role}', 'planted', '{user}', {ending})"
                )
            case "public.chat_files":
                file = self._forged(victim)
                return (
                    f"insert into {table} (session_id, turn_id, version, size, user_id, name, bucket, key, sha256, "
                    f"media_type) values ('{session}', '{turn}', {number}, 1, '{user}', '{file.name}', 'mcp-files', "
                    f"'{file.key}', '{file.sha256}', 'x/y')"
                )
            case "public.chat_forks":
                parent = pick(victim.known_sessions)
                values = f"'{session}', '{parent}', {number}, '{user}'"
                return f"insert into {table} (session_id, parent_id, place, user_id) values ({values})"
            case "public.chat_words":
                return (
                    f"insert into {table} (message_id, turn_id, created_at, part, user_id, words) "
                    f"values ('{message}', '{turn}', now(), 0, '{user}', 'planted')"
                )
            case "public.chat_words_due":
                return f"insert into {table} (message_id) values ('{pick(victim.known_answer_ids)}')"
            case "storage.objects":
                return f"insert into {table} (bucket_id, name) values ('mcp-files', '{victim.name}/planted-{turn}/x')"
        return f"insert into {table} (version, name, checksum) values ({self._random.randrange(5, 999)}, 'x', 'y')"

    def _function_call(self, victim: Tenant, functions: list[str], *, anybody: bool) -> tuple[str, str, list[object]]:
        """A function, and a call of it by names of arguments.

        Args:
            anybody: Whether the call may name a victim as its user, or nobody: a trusted caller's may not.
        """
        function = self._random.choice(functions)
        always, sometimes = (names.split() for names in FUNCTIONS[function])
        given = {
            name: self._argument(name, victim, anybody=anybody)
            for name in (*always, *(name for name in sometimes if self._random.random() < 0.3))
        }
        placed = ", ".join(f"{name} => %s" for name in given)
        return function, f"select public.{function}({placed})", list(given.values())

    def _argument(self, name: str, victim: Tenant, *, anybody: bool) -> object:
        pick = self._random.choice
        known = pick(victim.known_turns)
        file = pick(victim.known_files)
        now = datetime.now(UTC)
        moment = pick((now, now, now, "infinity", "2020-01-01Z"))
        match name:
            case "user_id" | "asked" | "principal":
                if anybody and self._random.random() < 0.6:
                    return pick((victim.name, victim.name, None))
                return pick(("mallory", pick(_SENDABLE)))
            case "turn_id" | "turn":
                return pick((known.id, pick(victim.known_answer_ids), str(uuid.uuid4())))
            case "answer_id":
                return pick((pick(victim.known_answer_ids), known.id, str(uuid.uuid4())))
            case "session":
                return pick(victim.known_sessions)
            case "places":
                return list(range(20))
            case "continuation_id" | "fresh_id" | "before_id":
                return self._continuation_id(victim)
            case "digest":
                return pick((known.digest, "mine", None))
            case "before_user":
                return pick((victim.name, "\U0010ffff"))
            case "name":
                return pick((file.name, *INJECTIONS))
            case "bucket":
                return "mcp-files"
            case "key":
                return pick((file.key, *INJECTIONS))
            case "query" | "tool":
                return pick(("asks", "answers", "asks or answers or k00", "-zzz", pick(INJECTIONS)))
            case "wanted" | "words":
                return pick(("asks", "asks | answers", "!zzz", "k00", "':*"))
            case "outcome":
                return pick(("answered", "failed", "' or true --"))
            case "body" | "answer_body" | "metadata":
                return None
            case "file":
                return json.dumps(_line(self._forged(victim)))
            case "files":
                return pick((None, json.dumps([_line(self._forged(victim))])))
            case "after":
                return pick(("(0,0)", "(1,1)"))
            case "minted" | "adopt" | "deferred" | "only_if_wanted":
                return pick((True, False))
            case "after_place" | "tokens":
                return pick((0, 1, -1))
            case "place":
                return pick((1, 2))
            case "last_place":
                return pick((1, 100_000, 100_000, 100_000))  # a conversation that is full gives nothing
            case "max_turns" | "max_tokens" | "max_lines" | "max_hits" | "max_conversations" | "max_messages":
                return 100_000  # no limit on the loot
            case "before_at":
                return pick((moment, None))
            case "turns":
                name = pick((victim.name, "mallory")) if anybody else "mallory"
                return json.dumps({name: victim.known_turn_ids})
            case "beginnings" | "endings":
                always, sometimes = FUNCTIONS["begin_turn_up_to" if name == "beginnings" else "finish_turn"]
                names = [*always.split(), *sometimes.split()]
                listed = [
                    {one: self._argument(one, victim, anybody=anybody) for one in names} for _ in range(pick((1, 1, 2)))
                ]
                return json.dumps(listed, default=str)
            case "lease_until":
                return pick((moment, "2400-01-01Z"))
            case "started_at" | "ended_at" | "kept_at" | "since" | "until" | "at" | "moment" | "expires_at":
                return moment
        return pick(("hello", *INJECTIONS))

    # ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _judge(self, attempt: str, said: str) -> None:
        for name in ("alice", "bob"):
            if found := self._tenants[name].seen_in(said):
                self.report.leaks.append(f"{attempt}: it said {found}")

    def _look_for_changes(self, before: dict[str, str]) -> None:
        for name, then in before.items():
            now = self._checksum(name)
            if now != then:
                self.report.leaks.append(f"the rows of {name} were changed")
                before[name] = now

    def _look_at_own_rows(self, api: Api, store: PostgresStore, ways: set[str]) -> None:
        """A wall without a door would keep everybody out as well: the attacker must reach what is his own."""
        mallory = self._tenants["mallory"]
        own_id = f"{mallory.mark}-id-0"  # which no attempt names, so that he has not spoilt it himself
        reads: dict[str, Callable[[], str]] = {}
        if "authenticated" in ways:
            for table in TABLES:
                if table not in (
                    "public.perdure_migrations",
                    "public.chat_forks",
                    "public.chat_words_due",
                ):  # sees none
                    reads[table] = lambda table=table: api.as_user("mallory", f"select t::text from {table} t").text
            reads["read_turns"] = lambda: (
                api.as_user("mallory", f"select public.read_turns('mallory', '{own_id}')").text
            )
        if "service_role" in ways:
            reads["search_messages"] = lambda: (
                api.request("select public.search_messages('mallory', 'asks')", role="service_role").text
            )
            reads["list_files"] = lambda: api.request("select public.list_files('mallory')", role="service_role").text
        if "store" in ways:
            reads["store"] = lambda: repr(store.turns("mallory", own_id))
        for name, read in reads.items():
            if mallory.mark not in (said := read()):
                self.report.blind.append(f"{name}: mallory does not find what is his own ({said[:200]})")

    def _attacker(self) -> str:
        """Mallory, who is a tenant like the others, or a name that may be taken for a victim's."""
        return "mallory" if self._random.random() < 0.3 else self._random.choice(HOSTILE)

    def _victim(self) -> Tenant:
        return self._tenants[self._random.choice(("alice", "bob"))]

    def _continuation_id(self, victim: Tenant) -> str:
        pick = self._random.choice
        return pick((*victim.known_ids, *victim.known_ids, f"{victim.known_ids[1]}%", pick(INJECTIONS)))

    def _forged(self, victim: Tenant) -> StoredFile:
        file = self._random.choice(victim.known_files)
        own = f"mallory{file.key.removeprefix(victim.name)}"  # so that it is not the key that keeps the file out
        key = self._random.choice((file.key, own, own, own))
        return replace(file, key=key, media_type="x/y", bucket="mcp-files")

    def _checksum(self, name: str) -> str:
        return checksum(self._project, self._database, self._tenants[name])


def _plant(api: Api) -> None:
    """What a caller who speaks SQL can bring along: a function that tells what it is given, and an operator of it."""
    reply = api.request(
        "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0001 as "
        "$x$ begin raise notice 'saw %', $1; return true; end $x$; "
        "create function pg_temp.leak(record, record) returns boolean language plpgsql cost 0.0001 as "
        "$x$ begin raise notice 'saw %', $1; return true; end $x$; "
        "create operator pg_temp.<<< (leftarg = record, rightarg = record, function = pg_temp.leak)",
        claims=token("mallory"),
    )
    assert reply.error is None, reply.text


def _line(file: StoredFile) -> dict[str, object]:
    return {name: getattr(file, name) for name in ("name", "bucket", "key", "sha256", "size", "media_type")}


def _everything_said(error: BaseException | None) -> list[str]:
    said = []
    while error is not None:
        said += [
            str(error),
            *(str(getattr(getattr(error, "diag", None), part, "")) for part in ("message_detail", "context")),
        ]
        error = error.__cause__
    return said
