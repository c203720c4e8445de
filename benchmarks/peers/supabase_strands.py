"""supabase-strands: its session manager, as an agent drives it: all messages listed, then two rows inserted."""

from collections import defaultdict
from collections.abc import Sequence

from strands.types.session import SessionMessage
from supabase_strands import SupabaseSessionManager

from benchmarks.peers.worker import serve, texts_of

_AGENT = "agent"


class Sessions:
    def __init__(self) -> None:
        self._kept: defaultdict[str, int] = defaultdict(int)

    def open(self, where: str) -> None:
        self._manager = SupabaseSessionManager("benchmark", supabase_url=where, supabase_key="sb_secret_benchmark")

    def plant(self, conversation: str, messages: int) -> None:
        for number, text in enumerate(texts_of(messages)):
            self._put(conversation, "assistant" if number % 2 else "user", text)

    def turn(self, conversation: str, prompt: str, answer: str) -> int:
        read = self._manager.list_messages(conversation, _AGENT)
        self._put(conversation, "user", prompt)
        self._put(conversation, "assistant", answer)
        return len(read)

    def texts(self, conversation: str) -> Sequence[str]:
        found = self._manager.list_messages(conversation, _AGENT)
        return [message.message["content"][0]["text"] for message in found]

    def close(self) -> None:
        pass

    def _put(self, conversation: str, role: str, text: str) -> None:
        self._kept[conversation] += 1
        message = {"role": role, "content": [{"text": text}]}
        kept = SessionMessage.from_message(message, self._kept[conversation])
        self._manager.create_message(conversation, _AGENT, kept)


if __name__ == "__main__":
    serve(Sessions())
