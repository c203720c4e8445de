"""A conversation is found only by (principal, continuation id), and the principal only in the authentication."""

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from perdure import install, persisted
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.history import current_conversation
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.settings import Settings

TOKENS = {
    "token-alice": AccessToken(token="token-alice", client_id="app", scopes=[], subject="alice"),
    "token-bob": AccessToken(token="token-bob", client_id="app", scopes=[], subject="bob"),
    "token-machine": AccessToken(token="token-machine", client_id="robot", scopes=[]),
    "token-mimic": AccessToken(token="token-mimic", client_id="app", scopes=[], subject="client:robot"),
}


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        return TOKENS.get(token)


async def recall(prompt: str) -> str:
    conversation = current_conversation()
    return " | ".join(turn.prompt for turn in conversation.history) if conversation else "not persisted"


def make_server(seam: str, *, authenticated: bool) -> MCPServer:
    auth = {}
    if authenticated:
        settings = AuthSettings(issuer_url="http://127.0.0.1:1", resource_server_url=None)
        auth = {"token_verifier": Verifier(), "auth": settings}
    server = MCPServer("private", **auth)
    server.tool()(persisted(history="none")(recall) if seam == "decorator" else recall)
    if seam == "hook":
        install(server, tools=["recall"])
    return server


@contextlib.contextmanager
def served(server: MCPServer, **options: bool) -> Iterator[str]:
    """The server on a real socket of this machine's loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(server.streamable_http_app(**options), log_level="error", lifespan="on")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            running.should_exit = True
            thread.join()


@contextlib.asynccontextmanager
async def connected(url: str, token: str | None, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    made = MemoryStore() if request.param == "memory" else PostgresStore(request.getfixturevalue("database_url"))
    yield made
    made.close()


@pytest.fixture
def _runtime(store: Store) -> Iterator[None]:
    with wiring.activated(wiring.build(Settings(), store=store)):
        yield


async def said(client: Client, prompt: str, continuation_id: str | None = None) -> tuple[str, str]:
    """The answer, and the continuation id of the conversation it belongs to."""
    arguments = {"prompt": prompt} | ({"continuation_id": continuation_id} if continuation_id else {})
    result = await client.call_tool("recall", arguments)
    return result.content[0].text, result.meta["perdure/continuation-id"]


@pytest.mark.usefixtures("_runtime")
@pytest.mark.parametrize("seam", ["decorator", "hook"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("stateless", [False, True])
async def test_two_users_with_the_same_id_never_meet(store: Store, seam: str, mode: str, stateless: bool) -> None:
    with served(make_server(seam, authenticated=True), stateless_http=stateless) as url:
        async with connected(url, "token-alice", mode) as alice, connected(url, "token-bob", mode) as bob:
            await said(alice, "alice's secret", "shared-name")
            answer_of_bob, _ = await said(bob, "bob's question", "shared-name")
            answer_of_alice, _ = await said(alice, "again", "shared-name")

    assert answer_of_bob == ""
    assert answer_of_alice == "alice's secret"
    assert {line.principal for line in store.conversations()} == {"alice", "bob"}


@pytest.mark.usefixtures("_runtime")
async def test_a_foreign_id_and_an_unknown_id_are_answered_alike() -> None:
    with served(make_server("decorator", authenticated=True)) as url:
        async with connected(url, "token-alice") as alice, connected(url, "token-bob") as bob:
            _, minted_for_alice = await said(alice, "secret")
            foreign = await bob.call_tool("recall", {"prompt": "x", "continuation_id": minted_for_alice})
            unknown = await bob.call_tool("recall", {"prompt": "x", "continuation_id": "never-seen"})

    assert foreign.content[0] == unknown.content[0]
    assert foreign.meta["perdure/history"] == unknown.meta["perdure/history"]
    assert foreign.meta["perdure/continuation-id"] == minted_for_alice
    assert unknown.meta["perdure/continuation-id"] == "never-seen"


@pytest.mark.usefixtures("_runtime")
async def test_no_argument_and_no_meta_can_name_the_principal(store: Store) -> None:
    with served(make_server("hook", authenticated=True)) as url:
        async with connected(url, "token-bob") as bob:
            arguments = {"prompt": "x", "user_id": "alice", "principal": "alice"}
            await bob.call_tool("recall", arguments, meta={"perdure/user-id": "alice", "user_id": "alice"})

    assert [line.principal for line in store.conversations()] == ["bob"]


@pytest.mark.usefixtures("_runtime")
async def test_a_subject_cannot_pass_for_a_client_without_one(store: Store) -> None:
    with served(make_server("decorator", authenticated=True)) as url:
        async with connected(url, "token-machine") as machine, connected(url, "token-mimic") as mimic:
            await said(machine, "the machine's", "c")
            answer, _ = await said(mimic, "x", "c")

    assert answer == ""
    assert {line.principal for line in store.conversations()} == {"client:robot", "subject:client:robot"}


@pytest.mark.usefixtures("_runtime")
@pytest.mark.parametrize("seam", ["decorator", "hook"])
async def test_without_authentication_only_minted_ids_are_adopted(store: Store, seam: str) -> None:
    with served(make_server(seam, authenticated=False)) as url:
        async with connected(url, None) as one, connected(url, None) as other:
            _, given = await said(one, "first", "guessable")
            assert given != "guessable"
            answer, again = await said(other, "second", given)  # who knows a minted id was told it
            assert (answer, again) == ("first", given)
            answer, fresh = await said(other, "third", "guessable")
            assert answer == ""
            assert fresh not in ("guessable", given)

    assert {line.principal for line in store.conversations()} == {"anonymous"}


async def test_without_authentication_a_name_chosen_on_stdio_stays_out_of_reach(store: Store) -> None:
    settings = Settings(user_id="me")
    with wiring.activated(wiring.build(settings, store=store)):
        server = make_server("decorator", authenticated=False)
        async with Client(server) as local:
            await said(local, "private", "my-project")
        with served(server) as url:
            async with connected(url, None) as stranger:
                answer, given = await said(stranger, "x", "my-project")

    assert answer == ""
    assert given != "my-project"


async def test_a_shared_user_may_choose_names_without_authentication(store: Store) -> None:
    with wiring.activated(wiring.build(Settings(shared_user=True, user_id="team"), store=store)):
        with served(make_server("decorator", authenticated=False)) as url:
            async with connected(url, None) as one, connected(url, None) as other:
                await said(one, "first", "our-project")
                answer, given = await said(other, "second", "our-project")

    assert (answer, given) == ("first", "our-project")
    assert {line.principal for line in store.conversations()} == {"team"}


async def test_the_token_outranks_the_configured_user(store: Store) -> None:
    with wiring.activated(wiring.build(Settings(user_id="me"), store=store)):
        with served(make_server("decorator", authenticated=True)) as url:
            async with connected(url, "token-alice") as alice:
                await said(alice, "x")

    assert {line.principal for line in store.conversations()} == {"alice"}
