"""Answers of a server that perdure adds to, but for those of tools."""

from perdure.middleware.persisted_server import PersistedServer
from perdure.middleware.persistence.wiring import runtime
from perdure.middleware.proxy.json_rpc import Message

__all__ = ["LIST_CHANGED", "AmendedAnswers"]

LIST_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'


class AmendedAnswers:
    """Each as a client is shown it, given as the server made it."""

    def __init__(self, persisted: PersistedServer) -> None:
        self.negotiated: str | None = None
        """The protocol version that the two agreed on; None without a handshake."""
        self._persisted = persisted

    def initialized(self, answer: Message) -> Message:
        result = answer.body.get("result")
        if not isinstance(result, dict):
            return answer
        if isinstance(version := result.get("protocolVersion"), str):
            self.negotiated = version
        if self._persisted.conversations.are_on:
            answer = self.announced(answer)
            result = answer.body["result"]
        match result:
            case {"capabilities": {"tools": dict(tools)} as others} if not tools.get("listChanged"):
                if not runtime().settings.enabled:
                    return answer
                # A client that is not told that the list may change does not listen for it.
                offered = {**others, "tools": {**tools, "listChanged": True}}
                return answer.changed(result={**result, "capabilities": offered})
            case _:
                return answer

    def announced(self, answer: Message) -> Message:
        """With the resources that conversations are."""
        result = answer.body.get("result")
        if not isinstance(result, dict):
            return answer
        return answer.changed(result=self._persisted.conversations.announced(result))

    def listed(self, answer: Message) -> Message:
        page = answer.body.get("result")
        if not isinstance(page, dict):
            return answer
        try:
            shown = self._persisted.list(page)
        except Exception as error:  # noqa: BLE001 - a list that we cannot read is the server's to show
            runtime().say("tool.not_amended", error)
            return answer
        return answer if shown == page else answer.changed(result=shown)

    def list_has_changed(self) -> bool:
        """Whether a client was shown its tools otherwise than settings have them by now. Then it is told to look again.

        One without a handshake would have to have subscribed, with the server.
        """
        try:
            return self.negotiated is not None and self._persisted.shown.have_changed()
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("tools.change_not_told", error)
            return False
