"""Where everything is on this page. What names a conversation may hold any character, so it stands in the query."""

from urllib.parse import urlencode

__all__ = ["Links"]


class Links:
    def __init__(self, base: str) -> None:
        self.base = base

    def conversations(self, **filters: str | None) -> str:
        """`filters`: `user`, `tool`, `outcome`, and `before`, where the page before this one ended."""
        return self._to("", **filters)

    def conversation(self, user: str, continuation_id: str, start: int | None = None) -> str:
        """From the turn at place `start` on, which then has the focus; None: its newest turns."""
        link = self._to("conversation", user=user, id=continuation_id, start=start)
        return f"{link}#turn-{start}" if start is not None else link

    def turn(self, user: str, continuation_id: str, place: int, *, plain: bool = False) -> str:
        return self._to("turn", user=user, id=continuation_id, place=place, plain=1 if plain else None)

    def text(self, user: str, continuation_id: str, place: int, part: str) -> str:
        return self._to("text", user=user, id=continuation_id, place=place, part=part)

    def file(self, user: str, uri: str, *, download: bool = False) -> str:
        return self._to("file", user=user, uri=uri, download=1 if download else None)

    def search(self, question: str = "", before: str | None = None) -> str:
        return self._to("search", q=question or None, before=before)

    def theme(self, name: str, back: str) -> str:
        return self._to("theme", name=name, back=back)

    def _to(self, page: str, **query: str | int | None) -> str:
        given = {name: value for name, value in query.items() if value is not None and value != ""}
        return f"{self.base}/{page}" + (f"?{urlencode(given)}" if given else "")
