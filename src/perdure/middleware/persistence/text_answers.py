"""Answers that say nothing but their text, as they are kept in mind: without the objects of their JSON.

Python's collector goes over each object that holds others again and again, for as long as it lives: one that lives as
long as a turn is known costs 3 µs in the end, and the two that the result of a tool is made of as much as all its JSON.
"""

from collections.abc import Callable

from perdure.middleware.persistence.turn import Answer, JsonObject

__all__ = ["TextAnswer"]


class TextAnswer(Answer):
    """Its result is made of its text, a new one whenever it is asked for. Whom it is shown to gets an `Answer`."""

    __slots__ = ("_made_of",)

    _made_of: Callable[[str], JsonObject]

    error = None

    def __init__(self, text: str, made_of: Callable[[str], JsonObject]) -> None:
        put = object.__setattr__
        put(self, "text", text)
        put(self, "_made_of", made_of)

    @property
    def result(self) -> JsonObject:
        return self._made_of(self.text)

    def written_out(self) -> Answer:
        return Answer(text=self.text, result=self.result)
