"""A caller's conversations as MCP resources, where the operator wants that: a client can list, read and resume them.

`conversation://<id>` is a conversation as Markdown; its id is what a tool takes as `continuation_id`. All as wire
dictionaries: https://modelcontextprotocol.io/specification/2025-06-18/server/resources and …/utilities/completion.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from perdure.errors import FileMissing, StoreUnavailable
from perdure.middleware.call_reader import Caller, is_usable_id, readers_of
from perdure.middleware.persistence.archive.reading import files_by_turn
from perdure.middleware.persistence.archive.transcript import transcript
from perdure.middleware.persistence.turn import ConversationSummary, JsonObject
from perdure.middleware.persistence.wiring import Runtime, runtime

__all__ = ["ConversationResources"]

_SCHEME = "conversation://"
_TEMPLATE = f"{_SCHEME}{{continuation_id}}"
_ARGUMENT = "continuation_id"
_OUR_CURSOR = "perdure:"
_PAGE = 50
_MOST_VALUES = 100
"""Of a completion, by the specification."""
_LOOKED_THROUGH = 1000
"""The newest conversations, of which a completion is one."""
_MOST_TURNS = 200
"""The newest, that a resource shows."""


class ConversationResources:
    """What of a server's answers is different where conversations are resources; nothing where they are not."""

    @property
    def are_on(self) -> bool:
        settings = runtime().settings
        return settings.enabled and settings.conversation_resources

    def named_by(self, params: Mapping[str, Any]) -> bool:
        """Whether a `resources/read` asks for a conversation."""
        uri = params.get("uri")
        return self.are_on and isinstance(uri, str) and uri.startswith(_SCHEME)

    def continues(self, params: Mapping[str, Any]) -> bool:
        """Whether a `resources/list` goes on where an earlier page of ours ended: the server has no part in it."""
        cursor = params.get("cursor")
        return self.are_on and isinstance(cursor, str) and cursor.startswith(_OUR_CURSOR)

    def completes(self, params: Mapping[str, Any]) -> bool:
        """Whether a `completion/complete` asks for a conversation's id."""
        ref, argument = params.get("ref"), params.get("argument")
        return (
            self.are_on
            and isinstance(ref, dict)
            and ref.get("uri") == _TEMPLATE
            and isinstance(argument, dict)
            and argument.get("name") == _ARGUMENT
        )

    def announced(self, result: JsonObject) -> JsonObject:
        """The answer to a handshake, which says that there are resources and completions."""
        capabilities = result.get("capabilities")
        if not self.are_on or not isinstance(capabilities, dict):
            return result
        return {**result, "capabilities": {"resources": {}, "completions": {}, **capabilities}}

    def with_template(self, page: JsonObject) -> JsonObject:
        """A page of `resources/templates/list`; on the last, ours."""
        templates = page.get("resourceTemplates")
        if not self.are_on or page.get("nextCursor") or not isinstance(templates, list):
            return page
        ours = {
            "uriTemplate": _TEMPLATE,
            "name": "conversation",
            "title": "Conversation",
            "description": "An earlier conversation of yours with this server's tools, as Markdown. To go on with it, "
            "give its id to a tool as continuation_id.",
            "mimeType": "text/markdown",
        }
        return {**page, "resourceTemplates": [*templates, ours]}

    async def listed(self, caller: Caller, page: JsonObject, cursor: str | None) -> JsonObject:
        """A page of `resources/list`: behind the server's last, or `cursor` says where ours go on."""
        resources = page.get("resources")
        if not self.are_on or page.get("nextCursor") or not isinstance(resources, list):
            return page
        lines, following = await _asked(lambda now: _page_of(now, _principals(caller, now), cursor))
        page = {**page, "resources": [*resources, *map(_resource, lines)]}
        return page if following is None else {**page, "nextCursor": following}

    async def read(self, caller: Caller, params: Mapping[str, Any]) -> JsonObject:
        """The answer to `resources/read` for a conversation: the caller's own only.

        Raises:
            StoreError: There is none, or it could not be read now.
        """
        uri = params["uri"]
        text = await _asked(lambda now: _transcript(now, _principals(caller, now), uri))
        return {"contents": [{"uri": uri, "mimeType": "text/markdown", "text": text}]}

    async def completed(self, caller: Caller, params: Mapping[str, Any]) -> JsonObject:
        """The answer to `completion/complete`: ids that begin with what there is, the newest first."""
        begun = str(params["argument"].get("value", ""))
        ids = await _asked(lambda now: _ids(now, _principals(caller, now), begun))
        values = ids[:_MOST_VALUES]
        return {"completion": {"values": values, "total": len(ids), "hasMore": len(ids) > len(values)}}


def _principals(caller: Caller, now: Runtime) -> list[str]:
    """Whose conversations these are; nobody's where anybody may be calling."""
    if caller.remote and caller.subject is None and not now.settings.shared_user:
        return []
    return readers_of(caller, now.settings)


async def _asked(work: Callable[[Runtime], Any]) -> Any:
    now = runtime()
    try:
        return await now.lane.call_async(lambda: work(now), budget=now.settings.operation_timeout)
    except FileMissing:
        raise
    except Exception as error:
        now.say("conversations.not_read", error)
        raise StoreUnavailable("The conversations could not be read now.", remedy="try again later.") from error


def _page_of(
    now: Runtime, principals: Sequence[str], cursor: str | None
) -> tuple[list[ConversationSummary], str | None]:
    start, before = _position(cursor, principals)
    found: list[ConversationSummary] = []
    for principal in principals[start:]:
        found += now.engine.conversations(principal, before=before, limit=_PAGE + 1 - len(found))
        before = None
        if len(found) > _PAGE:
            return found[:_PAGE], _cursor(found[_PAGE - 1])
    return found, None


def _cursor(line: ConversationSummary) -> str:
    position = json.dumps([line.updated_at.isoformat(), line.principal, line.continuation_id])
    return _OUR_CURSOR + base64.urlsafe_b64encode(position.encode()).decode()


def _position(cursor: str | None, principals: Sequence[str]) -> tuple[int, tuple[datetime, str, str] | None]:
    """
    Raises:
        FileMissing: No page of this caller's ended so.
    """
    if cursor is None:
        return 0, None
    try:
        at, principal, continuation_id = json.loads(base64.urlsafe_b64decode(cursor.removeprefix(_OUR_CURSOR)))
        return principals.index(principal), (datetime.fromisoformat(at).astimezone(UTC), principal, continuation_id)
    except (ValueError, TypeError) as error:
        raise FileMissing("There is no page at this cursor.", remedy="begin without a cursor.") from error


def _resource(line: ConversationSummary) -> JsonObject:
    turns = "1 turn" if line.turns == 1 else f"{line.turns} turns"
    last = line.updated_at.astimezone(UTC)
    return {
        "uri": _SCHEME + quote(line.continuation_id, safe=""),
        "name": line.continuation_id,
        "title": f"Conversation {line.continuation_id}",
        "description": f"{turns}, last used {last:%Y-%m-%d %H:%M} UTC. continuation_id: {line.continuation_id}",
        "mimeType": "text/markdown",
        "annotations": {"lastModified": last.strftime("%Y-%m-%dT%H:%M:%SZ")},
    }


def _transcript(now: Runtime, principals: Sequence[str], uri: str) -> str:
    continuation_id = unquote(uri.removeprefix(_SCHEME))
    for principal in principals if is_usable_id(continuation_id) else ():
        for line in now.engine.conversations(principal, continuation_id, limit=1):
            return _newest_of(now, line)
    raise FileMissing(f"There is no conversation {uri}.", remedy="use a URI that resources/list gives.")


def _newest_of(now: Runtime, line: ConversationSummary) -> str:
    """The heading, and of the newest turns as many as one message takes."""
    after = max(line.turns - _MOST_TURNS, 0)
    turns = now.engine.turns(line.principal, line.continuation_id, after=after, limit=_MOST_TURNS)
    pieces = transcript(line, turns, files_by_turn(now.engine.store, line))
    heading = list(islice(pieces, 2))
    room = now.settings.max_resource_bytes
    shown: list[str] = []
    for piece in reversed(list(pieces)):
        room -= len(piece.encode())
        if room < 0:
            break
        shown.append(piece)
    left_out = line.turns - len(shown)
    note = f"\n{left_out} earlier turns are not shown.\n" if left_out else ""
    return "".join([*heading, note, *reversed(shown)])


def _ids(now: Runtime, principals: Sequence[str], begun: str) -> list[str]:
    return [
        line.continuation_id
        for principal in principals
        for line in now.engine.conversations(principal, limit=_LOOKED_THROUGH)
        if line.continuation_id.startswith(begun)
    ]
