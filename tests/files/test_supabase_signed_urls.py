"""Signed addresses: for the client's copy of a result alone, read by anybody, recorded by nobody."""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from files.conftest import SEAMS, Json, Place, called, files_in, texts, uri_of
from mcp.server.mcpserver import MCPServer
from servers.gateway_faults import Fault, Stranger, answer, drop_reply, empty, hang, html, redirect, reset
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure import persisted
from perdure.middleware.persistence import wiring
from perdure.settings import Settings, ToolSettings

SIGN = "/storage/v1/object/sign/"
CONTENT = b"a,b\n1,2\n" * 1000


@pytest.fixture(scope="module")
def stack(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as made:
        yield made


class SignedPlace:
    """Tools over a Supabase project, whose clients get signed addresses."""

    def __init__(self, place: Place, stack: SupabaseStack, until_the_end: ExitStack) -> None:
        self.stack = stack
        self.file = place.file
        self.place = place
        self._until_the_end = until_the_end
        self.set()

    def set(self, **policy: Any) -> None:
        settings = Settings(
            backend="supabase",
            supabase_url=self.stack.url,
            supabase_key=self.stack.secret_key,
            defaults=ToolSettings(**{"file_roots": (self.place.out,), "file_reference": "signed-url", **policy}),
        )
        made = wiring.build(settings)
        self._until_the_end.callback(made.engine.store.close)
        if made.spool is not None:
            self._until_the_end.callback(made.spool.close)
        self._until_the_end.enter_context(wiring.activated(made))

    async def given_out(self, value: Any, annotation: Any = str) -> Json:
        return await self.place.given_out(value, annotation)

    def recorded(self, result: Json) -> str:
        """All that the store tells of the turn, and all that its tables hold."""
        store = wiring.runtime().engine.store
        (turn,) = store.turns("local", result["_meta"]["perdure/continuation-id"])
        assert turn.answer is not None
        rows = [
            self.stack.execute(f"select to_jsonb(t)::text from public.{table} t")
            for table in ("chat_sessions", "chat_messages", "chat_files")
        ]
        return f"{turn} {json.dumps(turn.answer.result)} {rows}"


@pytest.fixture
def signed(place: Place, stack: SupabaseStack) -> Iterator[SignedPlace]:
    stack.empty()
    with ExitStack() as until_the_end:
        yield SignedPlace(place, stack, until_the_end)


def token_of(address: str) -> str:
    _, has_one, token = address.partition("?token=")
    assert has_one, address
    return token


@pytest.mark.parametrize("seam", SEAMS)
async def test_a_client_gets_an_address_that_anybody_can_read_and_the_record_does_not(
    signed: SignedPlace, seam: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    signed.place.seam = seam
    result = await signed.given_out(str(signed.file("a.csv", CONTENT)))
    (address,) = texts(result)
    uri = uri_of(CONTENT, "a.csv")
    token = token_of(address)

    assert address.startswith(f"{signed.stack.url}{SIGN}mcp-files/local/")
    got = httpx.get(address)
    assert (got.status_code, got.content) == (200, CONTENT)
    assert result["structuredContent"]["result"] == address
    assert result["_meta"]["perdure/persisted"] is True
    assert "perdure/fault" not in result["_meta"]
    assert files_in(result)["stored"][0]["uri"] == uri
    assert signed.stack.secret_key not in json.dumps(result)

    recorded = signed.recorded(result)
    assert uri in recorded
    assert token not in recorded
    assert "/object/sign/" not in recorded
    assert token not in caplog.text.replace(f"GET {address}", "")


async def test_what_a_tool_says_of_a_file_in_any_form_gets_the_same_address(signed: SignedPlace) -> None:
    signed.set(rewrite_text=True)
    path = signed.file("a.csv", CONTENT)
    result = await signed.given_out([str(path), path.as_uri(), f"I wrote {path}."], list[str])
    plain, as_uri, prose = texts(result)
    assert plain == as_uri
    assert prose == f"I wrote {plain}."
    assert httpx.get(plain).content == CONTENT
    recorded = signed.recorded(result)
    assert f"I wrote {uri_of(CONTENT, 'a.csv')}." in recorded
    assert token_of(plain) not in recorded


async def test_a_file_that_went_up_in_chunks_has_such_an_address_too(signed: SignedPlace) -> None:
    content = CONTENT * 1000
    (address,) = texts(await signed.given_out(str(signed.file("large.csv", content))))
    assert httpx.get(address).content == content


async def test_an_address_is_over_after_its_time_and_the_next_answer_has_a_new_one(signed: SignedPlace) -> None:
    signed.set(signed_url_seconds=60)
    path = signed.file("a.csv", CONTENT)
    (address,) = texts(await signed.given_out(str(path)))
    try:
        signed.stack.advance(20)
        assert httpx.get(address).status_code == 200
        signed.stack.advance(41)
        assert httpx.get(address).status_code == 400
        (again,) = texts(await signed.given_out(str(path)))
        assert httpx.get(again).content == CONTENT
    finally:
        signed.stack.advance(-61)
    assert again != address


async def test_a_history_tells_the_uri_to_the_next_turn(signed: SignedPlace) -> None:
    path = signed.file("a.csv", CONTENT)
    seen: list[str] = []

    def ask(prompt: str, continuation_id: str = "") -> str:
        seen.append(prompt)
        return str(path)

    server = MCPServer("files")
    server.tool()(persisted(ask))
    first = await called(server, "ask", {"prompt": "one"})
    continued = {"prompt": "two", "continuation_id": first["_meta"]["perdure/continuation-id"]}
    second = await called(server, "ask", continued)
    assert second["_meta"]["perdure/history"]["turns"] == 1
    assert uri_of(CONTENT, "a.csv") in seen[1]
    assert "token=" not in seen[1]
    assert httpx.get(texts(second)[0]).content == CONTENT


# ── when it fails ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (answer(500), "store_unavailable"),
        (reset(), "store_unavailable"),
        (empty(), "store_unavailable"),
        (html(), "store_unavailable"),
        (answer(403, body='{"statusCode":"403","error":"Unauthorized","message":"denied"}'), "store_misconfigured"),
        (hang(), "store_timeout"),
    ],
    ids=["500", "reset", "empty", "html", "403", "hangs"],
)
async def test_a_client_gets_the_uri_and_the_fault_when_signing_fails(
    signed: SignedPlace, fault: Fault, code: str
) -> None:
    if code == "store_timeout":
        signed.set(file_timeout=0.5)
    signed.stack.order(fault.on(SIGN, times=None))
    result = await signed.given_out(str(signed.file("a.csv", CONTENT)))
    assert texts(result) == [uri_of(CONTENT, "a.csv")]
    assert result["_meta"]["perdure/fault"] == code
    assert result["_meta"]["perdure/persisted"] is True
    assert uri_of(CONTENT, "a.csv") in signed.recorded(result)
    signed.stack.clear_faults()
    assert signed.place.content(texts(result)[0]) == CONTENT


@pytest.mark.parametrize("fault", [reset(), drop_reply(), answer(503)], ids=["reset", "reply lost", "503"])
async def test_a_fault_that_passes_is_not_noticed(signed: SignedPlace, fault: Fault) -> None:
    signed.stack.order(fault.on(SIGN))
    result = await signed.given_out(str(signed.file("a.csv", CONTENT)))
    assert httpx.get(texts(result)[0]).content == CONTENT
    assert "perdure/fault" not in result["_meta"]


async def test_of_two_files_of_which_one_cannot_be_signed_the_client_can_still_use_both(signed: SignedPlace) -> None:
    signed.stack.order(answer(500).on(SIGN, skip=1, times=None))
    paths = [str(signed.file(name, name.encode())) for name in ("a.txt", "b.txt")]
    result = await signed.given_out(paths, list[str])
    for name, text in zip(("a.txt", "b.txt"), texts(result), strict=True):
        got = signed.place.content(text) if text.startswith("storage://") else httpx.get(text).content
        assert got == name.encode()
    assert result["_meta"]["perdure/fault"] == "store_unavailable"


async def test_a_turn_that_waits_for_its_store_gives_out_no_address(signed: SignedPlace) -> None:
    signed.stack.order(answer(401, body='{"code":"PGRST301","message":"no"}').on("/rest/v1/rpc/finish", times=None))
    path = str(signed.file("a.csv", CONTENT))
    result = await signed.given_out(path)
    assert (result["_meta"]["perdure/persisted"], result["_meta"]["perdure/deferred"]) == (True, True)
    assert texts(result) == [uri_of(CONTENT, "a.csv")]
    assert not [one for one in signed.stack.requests if one.path.startswith(SIGN)]


async def test_a_redirect_takes_no_key_anywhere(signed: SignedPlace) -> None:
    with Stranger() as stranger:
        signed.stack.order(redirect(stranger.url).on(SIGN, times=None))
        result = await signed.given_out(str(signed.file("a.csv", CONTENT)))
        assert stranger.seen == []
    assert texts(result) == [uri_of(CONTENT, "a.csv")]
    assert result["_meta"]["perdure/fault"] == "store_misconfigured"


async def test_a_backend_that_cannot_sign_gives_the_uri(seamed: Place, tmp_path: Path) -> None:
    seamed.set(file_reference="signed-url")
    result = await seamed.given_out(str(seamed.file("a.csv", CONTENT)))
    assert texts(result) == [uri_of(CONTENT, "a.csv")]
    assert "perdure/fault" not in result["_meta"]
