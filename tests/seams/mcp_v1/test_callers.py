"""Who calls is told by each request's own token, over real HTTP; not by who began the session, nor by an argument."""

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import uvicorn
from conftest import Activate
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.fastmcp import FastMCP
from mcp.shared.exceptions import McpError
from pydantic import AnyUrl
from starlette.requests import Request

from perdure import current_conversation, install, persisted
from perdure.middleware.call_reader import Caller
from perdure.middleware.sdk import mcp_v1
from perdure.middleware.sdk.interface import IncomingRequest

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


@contextlib.contextmanager
def served(seam: str, *, authenticated: bool, stateless: bool = False) -> Iterator[str]:
    """The server on a real socket of this machine's loopback."""
    auth = AuthSettings(issuer_url="http://127.0.0.1:1", resource_server_url=None)  # type: ignore[arg-type]
    options = {"token_verifier": Verifier(), "auth": auth} if authenticated else {}
    server = FastMCP("private", stateless_http=stateless, **options)  # type: ignore[arg-type]
    server.tool()(persisted(history="none")(recall) if seam == "decorator" else recall)
    if seam == "hook":
        install(server, tools=["recall"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        running = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error", lifespan="on"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            running.should_exit = True
            thread.join()


@contextlib.asynccontextmanager
async def connected(url: str, token: str | None) -> AsyncIterator[ClientSession]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx.AsyncClient(headers=headers) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


async def said(client: ClientSession, prompt: str, continuation_id: str) -> tuple[str, str]:
    """The answer, and the continuation id of the conversation it belongs to."""
    result = await client.call_tool("recall", {"prompt": prompt, "continuation_id": continuation_id})
    return result.content[0].text, result.meta["perdure/continuation-id"]  # type: ignore[index,union-attr]


@pytest.mark.parametrize("stateless", [False, True], ids=["session", "stateless"])
@pytest.mark.parametrize("seam", ["decorator", "hook"])
async def test_two_users_with_the_same_id_never_meet(seam: str, stateless: bool, activate: Activate) -> None:
    runtime = activate()
    with served(seam, authenticated=True, stateless=stateless) as url:
        async with connected(url, "token-alice") as alice, connected(url, "token-bob") as bob:
            await said(alice, "alice's secret", "shared-name")
            assert await said(bob, "bob's question", "shared-name") == ("", "shared-name")
            assert await said(alice, "again", "shared-name") == ("alice's secret", "shared-name")
    assert {line.principal for line in runtime.engine.conversations()} == {"alice", "bob"}


@pytest.mark.parametrize("stateless", [False, True], ids=["session", "stateless"])
async def test_each_user_finds_their_own_conversations_among_the_resources(stateless: bool, activate: Activate) -> None:
    activate(conversation_resources=True)
    with served("hook", authenticated=True, stateless=stateless) as url:
        async with connected(url, "token-alice") as alice, connected(url, "token-bob") as bob:
            await said(alice, "alice's secret", "hers")
            await said(bob, "bob's question", "his")
            for client, name in ((alice, "hers"), (bob, "his")):
                (found,) = (await client.list_resources()).resources
                assert found.name == name
            assert "alice's secret" in (await alice.read_resource(AnyUrl("conversation://hers"))).contents[0].text  # type: ignore[union-attr]
            with pytest.raises(McpError, match="There is no conversation"):
                await bob.read_resource(AnyUrl("conversation://hers"))


@pytest.mark.parametrize("seam", ["decorator", "hook"])
async def test_a_token_without_a_subject_is_known_by_its_client_and_no_subject_can_pass_for_it(
    seam: str, activate: Activate
) -> None:
    runtime = activate()
    with served(seam, authenticated=True) as url:
        for token in ("token-machine", "token-mimic"):
            async with connected(url, token) as client:
                await said(client, "a", "shared-name")
    principals = {line.principal for line in runtime.engine.conversations()}
    assert principals == {"client:robot", "subject:client:robot"}


@pytest.mark.parametrize("seam", ["decorator", "hook"])
async def test_over_http_without_authentication_only_minted_ids_are_adopted(seam: str, activate: Activate) -> None:
    activate()
    with served(seam, authenticated=False) as url:
        async with connected(url, None) as client:
            _, identity = await said(client, "a", "chosen")
            assert identity != "chosen"
            assert await said(client, "b", identity) == ("a", identity)


def test_within_a_session_the_requests_own_token_counts_and_not_that_of_who_began_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mcp.server.auth.middleware import auth_context

    began = type("User", (), {"access_token": TOKENS["token-alice"]})()
    monkeypatch.setattr(auth_context, "auth_context_var", type("Var", (), {"get": staticmethod(lambda: began)}))

    def caller(scope: dict[str, object]) -> Caller:
        native = type("Native", (), {"request": Request({"type": "http", **scope})})()
        return mcp_v1.caller_of(IncomingRequest(native, {}, None, native))

    of_bob = type("User", (), {"access_token": TOKENS["token-bob"]})()
    assert caller({"user": of_bob}) == Caller("bob", remote=True)
    assert caller({}) == Caller(None, remote=True)
