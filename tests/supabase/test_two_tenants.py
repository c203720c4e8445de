"""Two tenants behind the gateway: a generated campaign by the service key, by users' tokens, and on their files.

With the service key it is our functions that keep tenants apart; with a token it is row security as well. Each attempt
is judged by what comes back, by whether it went through at all where it may not, and by what became of the victims'
rows and bytes.
"""

import base64
import json
import random
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from isolation.campaign import FUNCTIONS, HOSTILE, Campaign, Report
from isolation.tenants import Tenant, settle
from postgrest.exceptions import APIError
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from storage3.exceptions import StorageApiError
from supabase import Client

from perdure.errors import PerdureError
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.supabase_api.deadline import within

BUCKET = "mcp-files"
METHODS = ("begin", "finish", "turns", "conversations", "file", "files")
VERBS = (
    "read", "download", "info", "sign", "list", "list all", "overwrite", "update", "plant", "remove",
    "remove folder", "read by a token that signs nothing", "read plainly", "overwrite plainly", "remove plainly",
    "begin a resumable upload",
)  # fmt: skip


class Project:
    """A stack, as the campaign over plain SQL knows databases."""

    def __init__(self, stack: SupabaseStack) -> None:
        self.stack = stack

    def url(self, _database: str) -> str:
        return self.stack.db_url

    def superuser(self, _database: str, statement: str) -> list[tuple[Any, ...]]:
        return self.stack.execute(statement)


class AsUser(SupabaseApi):
    """The project as a user's browser reaches it: with the key for browsers, and a token of the user's own."""

    def __init__(self, stack: SupabaseStack, subject: str) -> None:
        super().__init__(stack.url, stack.anon_key)
        self._token = stack.user_token(subject)

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Authorization": f"Bearer {self._token}"}

    @property
    def client(self) -> Client:
        client = super().client
        client.options.headers["Authorization"] = f"Bearer {self._token}"  # before its parts are made, at first use
        return client


class GatewayCampaign(Campaign):
    """Ways in: "service", our store with that key; "user", our functions by a token; "files", Storage by a token."""

    def __init__(self, stack: SupabaseStack, tenants: Mapping[str, Tenant], contents: Mapping[str, bytes]) -> None:
        super().__init__(Project(stack), stack.database, tenants, seed=20261125)  # type: ignore[arg-type]
        self._stack = stack
        self._contents = contents
        self._users: dict[str, AsUser] = {}

    def attack(self, attempts: Mapping[str, int], *, stop_at_first: bool = False) -> Report:
        before = {name: self._checksum(name) for name in ("alice", "bob")}
        with ExitStack() as until_the_end:
            store = SupabaseStore(SupabaseApi(self._stack.url, self._stack.service_key))
            until_the_end.callback(store.close)
            until_the_end.callback(lambda: [user.close() for user in self._users.values()])
            ways: dict[str, Callable[[], None]] = {
                "service": lambda: self._through_store(store),  # type: ignore[arg-type]
                "user": self._as_user,
                "files": self._at_files,
            }
            plan = [way for way, count in attempts.items() for _ in range(count)]
            self._random.shuffle(plan)
            for number, way in enumerate(plan, start=1):
                ways[way]()
                if number % 100 == 0 or number == len(plan):
                    self._look_for_changes(before)
                    self._look_at_own()
                if stop_at_first and (self.report.leaks or self.report.blind):
                    break
        for key, content in self._contents.items():
            if self._stack.object_bytes(BUCKET, key) != content:
                self.report.leaks.append(f"the bytes of {key} were changed")
        return self.report

    def _user(self, subject: str) -> AsUser:
        if subject not in self._users:
            self._users[subject] = AsUser(self._stack, subject)
        return self._users[subject]

    # ── functions, by a token ────────────────────────────────────────────────────────────────────────────────────

    def _as_user(self) -> None:
        attacker = self._attacker()
        if self._random.random() < 0.3:
            self.report.attempts["user store"] += 1
            store = SupabaseStore(self._user(attacker))
            self._through_store(store)  # type: ignore[arg-type]
            return
        function, statement, values = self._function_call(self._victim(), list(FUNCTIONS), anybody=True)
        given = dict(zip(re.findall(r"(\w+) => %s", statement), map(_as_json, values), strict=True))
        self.report.attempts[f"user {function}"] += 1
        said, code = self._called(attacker, function, given)
        self.report.refused[code] += 1
        self._judge(f"{function} by {attacker[:40]!r} with {given!r:.300}", said)

    def _called(self, subject: str, function: str, given: dict[str, Any]) -> tuple[str, str]:
        """What was said, and the code of its refusal."""
        with _in_peace():
            try:
                return repr(self._user(subject).client.rpc(function, given).execute().data), ""
            except APIError as error:
                return f"{error.message} {error.details} {error.hint}", str(error.code)
            except UnicodeEncodeError:
                return "", "unsendable"

    # ── files, by a token ────────────────────────────────────────────────────────────────────────────────────────

    def _at_files(self) -> None:
        pick = self._random.choice
        victim, attacker = self._victim(), self._attacker()
        if attacker == "\ud800":
            attacker = "mallory"  # Such a subject ends the stand-in's connection, in its own code for owners.
        user = self._user(attacker)
        mine = pick([key for key in self._contents if key.startswith(f"{victim.name}/")])
        folder = mine.rpartition("/")[0]
        spelled = pick((mine, mine, mine, f"mallory/../{mine}", f"./{mine}", f"{victim.name}//{mine}", mine.upper()))
        bucket = user.client.storage.from_(BUCKET)
        objects = f"{self._stack.url}/storage/v1/object"

        def plainly(method: str, address: str, **given: Any) -> str:
            """Past the official client, which refuses some keys before it asks."""
            request = httpx.Request(method, address, headers=user.headers, **given)
            reply = user.http.send(request).raise_for_status()
            return "" if reply.text == "[]" else reply.text

        attempt: dict[str, Callable[[], object]] = {
            "read": lambda: self._read_by_our_store(user, spelled),
            "download": lambda: bucket.download(spelled),
            "info": lambda: bucket.info(spelled),
            "sign": lambda: bucket.create_signed_url(spelled, 60),
            "list": lambda: bucket.list(pick((victim.name, f"{victim.name}/", folder))),
            "list all": lambda: [
                found
                for found in bucket.list(pick(("", "%", "_", "/", "../")), {"limit": 1000})
                if found["name"].startswith((victim.name, victim.mark))
            ],
            "overwrite": lambda: bucket.upload(spelled, b"overwritten", {"upsert": "true"}),
            "update": lambda: bucket.update(spelled, b"overwritten"),
            "plant": lambda: bucket.upload(f"{victim.name}/planted/{uuid.uuid4()}", b"planted"),
            "read by a token that signs nothing": lambda: plainly(
                "GET", f"{objects}/sign/{BUCKET}/{mine}?token={self._stack.user_token(attacker)}"
            ),
            "read plainly": lambda: plainly("GET", f"{objects}/{pick(('authenticated/', ''))}{BUCKET}/{spelled}"),
            "overwrite plainly": lambda: plainly(
                pick(("POST", "PUT")), f"{objects}/{BUCKET}/{spelled}", content=b"overwritten"
            ),
            "remove plainly": lambda: plainly("DELETE", f"{objects}/{BUCKET}/{spelled}"),
            "begin a resumable upload": lambda: self._begun(user, mine),
            "remove": lambda: bucket.remove([spelled]),
            "remove folder": lambda: bucket.remove([folder, victim.name, f"{victim.name}/"]),
        }
        verb = pick(list(attempt))
        self.report.attempts[f"files {verb}"] += 1
        with _in_peace():
            try:
                result = attempt[verb]()
            except (StorageApiError, PerdureError, OSError) as error:
                self.report.refused[str(getattr(error, "code", ""))] += 1
                if f"{victim.mark} wrote" in str(error):  # the key itself is the attacker's own word
                    self.report.leaks.append(f"{verb} of {spelled} by {attacker[:40]!r}: it said {error}")
                return
            except (httpx.HTTPStatusError, httpx.InvalidURL, ValueError) as error:
                self.report.refused[type(error).__name__] += 1  # ValueError: by the official client, before it asks
                return
        if result not in ([], None, ""):
            self.report.leaks.append(f"{verb} of {spelled} by {attacker[:40]!r} went through: {result!r:.200}")

    def _begun(self, user: AsUser, key: str) -> str:
        named = {"bucketName": BUCKET, "objectName": key, "contentType": "text/plain"}
        metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in named.items())
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Upload-Metadata": metadata, "x-upsert": "true"}
        reply = user.http.post(
            f"{self._stack.url}/storage/v1/upload/resumable", headers={**user.headers, **headers}
        ).raise_for_status()
        return reply.headers["location"]

    def _read_by_our_store(self, user: AsUser, key: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            with SupabaseFileStore(user, BUCKET, Path(folder), timeout=5).read(key) as content:
                return content.read()

    # ── a wall needs a door ──────────────────────────────────────────────────────────────────────────────────────

    def _look_at_own(self) -> None:
        mallory = self._tenants["mallory"]
        secret_id = f"{mallory.mark}-id-0"
        said, code = self._called("mallory", "read_turns", {"user_id": "mallory", "continuation_id": secret_id})
        if mallory.mark not in said:
            self.report.blind.append(f"mallory does not read what is his own ({code} {said:.200})")
        [key, *_] = [key for key in self._contents if key.startswith("mallory/")]
        user = self._user("mallory")
        bucket = user.client.storage.from_(BUCKET)
        fresh = f"mallory/own/{uuid.uuid4()}"
        with _in_peace():
            try:
                own = [
                    bucket.download(key) == self._contents[key],
                    self._read_by_our_store(user, key) == self._contents[key],
                    bool(bucket.create_signed_url(key, 60)["signedURL"]),
                    bool(bucket.list(key.rpartition("/")[0])),
                    bool(bucket.upload(fresh, b"mine")),
                    bucket.download(fresh) == b"mine",
                ]
            except StorageApiError as error:
                self.report.blind.append(f"mallory does not reach a file of his own: {error}")
                return
        if not all(own):
            self.report.blind.append(f"mallory does not find his own files: {own}")


def _in_peace() -> AbstractContextManager[None]:
    return within(time.monotonic() + 60)


def _as_json(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case str() if value.startswith(("{", "[")):
            return json.loads(value) if '"key"' in value else value
        case _:
            return value


def peopled(stack: SupabaseStack) -> tuple[dict[str, Tenant], dict[str, bytes]]:
    """Three tenants in `stack`, and the bytes of their files by key."""
    tenants = settle(Project(stack), stack.database, "alice", "bob", "mallory")  # type: ignore[arg-type]
    keys = [key for (key,) in stack.execute("select name from storage.objects order by name")]
    stack.execute("set storage.allow_delete_query = 'true'; delete from storage.objects")
    contents = {key: f"{tenants[key.split('/')[0]].mark} wrote {key}".encode() for key in keys}
    api = SupabaseApi(stack.url, stack.service_key)
    with tempfile.TemporaryDirectory() as folder:
        files = SupabaseFileStore(api, BUCKET, Path(folder))
        for key, content in contents.items():
            snapshot = Path(folder, "snapshot")
            snapshot.write_bytes(content)
            files.put(key, snapshot, media_type="text/plain")
    api.close()
    return tenants, contents


@pytest.fixture(scope="module")
def settled(
    supabase_cluster: PostgresCluster,
) -> Iterator[tuple[SupabaseStack, dict[str, Tenant], dict[str, bytes]]]:
    with SupabaseStack(supabase_cluster) as stack:
        yield stack, *peopled(stack)


Settled = tuple[SupabaseStack, dict[str, Tenant], dict[str, bytes]]


def test_none_of_fifteen_hundred_attempts_reaches_another_tenant(settled: Settled) -> None:
    report = GatewayCampaign(*settled).attack({"service": 400, "user": 900, "files": 500})
    assert report.leaks == []
    assert report.blind == []
    assert report.total >= 1_500
    for method in METHODS:
        assert report.attempts[f"store {method}"] > 20
    for function in FUNCTIONS:
        assert report.attempts[f"user {function}"] > 5
    for verb in VERBS:
        assert report.attempts[f"files {verb}"] > 15
    assert report.refused[""] > 100, "most attempts fell over their own feet"


def test_without_row_security_the_same_campaign_finds_leaks(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, rls=False) as open_stack:
        report = GatewayCampaign(open_stack, *peopled(open_stack)).attack({"service": 50, "user": 150, "files": 200})
    assert any("went through" in leak for leak in report.leaks)
    assert any("the bytes of" in leak or "were changed" in leak for leak in report.leaks)


@pytest.mark.parametrize("way", ["user", "service"])
def test_functions_that_let_anybody_through_are_noticed(supabase: SupabaseStack, way: str) -> None:
    tenants, contents = peopled(supabase)
    walls = {
        "read_turns": ("and x.user_id = principal", ""),
        "chat_turns": ("q.user_id = chat_turns.principal", "true"),
    }
    for function, (wall, hole) in walls.items():
        [(source,)] = supabase.execute(f"select pg_get_functiondef('public.{function}'::regproc)")
        assert wall in source, "this wall stands elsewhere now"
        supabase.execute(source.replace(wall, hole))
    if way == "user":  # for whom row security is a wall of its own
        supabase.execute("alter function public.read_turns security definer")
    report = GatewayCampaign(supabase, tenants, contents).attack({way: 400}, stop_at_first=True)
    assert report.leaks


@pytest.mark.parametrize("victim", ["alice", "bob"])
def test_a_users_token_can_be_nobody_else_whatever_it_calls_itself(settled: Settled, victim: str) -> None:
    """Every function that takes a user, with the victim's name and a token of somebody else's: each is refused."""
    stack, tenants, contents = settled
    campaign = GatewayCampaign(stack, tenants, contents)
    chance = random.Random(1)
    for function, (always, _) in FUNCTIONS.items():
        if "user_id" not in always.split():
            continue
        for subject in ("mallory", *chance.sample([name for name in HOSTILE if name and name != "\ud800"], 8)):
            given = {name: _as_json(campaign._argument(name, tenants[victim], anybody=True)) for name in always.split()}
            said, code = campaign._called(subject, function, {**given, "user_id": victim})
            assert code, f"{function} by {subject!r} as {victim} was answered {said}"
            assert tenants[victim].seen_in(said) is None


def test_the_anon_key_alone_reaches_nothing(settled: Settled) -> None:
    stack, tenants, contents = settled
    api = SupabaseApi(stack.url, stack.anon_key)
    alice = tenants["alice"]
    [key, *_] = [key for key in contents if key.startswith("alice/")]
    bucket = api.client.storage.from_(BUCKET)
    with _in_peace():
        for function in ("read_turns", "list_conversations", "list_files"):
            with pytest.raises(APIError):
                api.client.rpc(function, {"user_id": "alice", "continuation_id": alice.known_ids[0]}).execute()
        for work in (
            lambda: bucket.download(key),
            lambda: bucket.info(key),
            lambda: bucket.create_signed_url(key, 60),
            lambda: bucket.upload("anon/x/y", b"x"),
            lambda: bucket.upload(key, b"x", {"upsert": "true"}),
        ):
            with pytest.raises(StorageApiError):
                work()
        assert bucket.list("alice") == []
        assert bucket.remove([key]) == []
    api.close()
    assert stack.object_bytes(BUCKET, key) == contents[key]


def test_tables_show_a_user_only_what_is_his(settled: Settled) -> None:
    stack, tenants, _ = settled
    user = AsUser(stack, "mallory")
    with _in_peace():
        try:
            told = repr(user.client.table("chat_messages").select("*").execute().data)
        except APIError as error:
            told = str(error.json())  # the stand-in serves no tables: tests/isolation attacks them by SQL
            assert "stand-in serves" in told
    assert tenants["alice"].seen_in(told) is None
