"""Whether a text answers a question, and the part of it to show, in Python: for stores whose database cannot."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from perdure.middleware.persistence.question import Question, Term

__all__ = ["SEARCHED", "Excerpt", "answers", "excerpt_of", "marked"]

SEARCHED = 100_000
"""Characters of a message that are searched: Postgres indexes no more of them."""

_WORD = re.compile(r"[^\W_]+")
_LONG = 200
"""Characters of an excerpt, about."""
_BEFORE = 60
"""Characters before the first word that was found."""

_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Excerpt:
    text: str
    marks: tuple[_Span, ...] = ()
    """Where the words that were found stand in `text`: from, and up to."""


def answers(question: Question, content: str) -> bool:
    words = _words(content[:SEARCHED])
    return all(any(_places(term, words) for term in group) for group in question.every) and not any(
        _places(term, words) for term in question.none
    )


def excerpt_of(question: Question, content: str) -> Excerpt:
    """The words around the first that was found; the beginning where none was."""
    content = content[:SEARCHED]
    words = _words(content)
    found = _joined(span for group in question.every for term in group for span in _places(term, words))
    start = max(found[0][0] - _BEFORE, 0) if found else 0
    if start:
        start = content.find(" ", start, found[0][0]) + 1 or start
    end = start + _LONG
    if end < len(content):
        end = max(content.rfind(" ", start, end), found[0][1] if found else 0) if " " in content[start:end] else end
    before, after = "… " if start else "", " …" if end < len(content) else ""
    shift = len(before) - start
    return Excerpt(
        before + content[start:end] + after,
        tuple((first + shift, last + shift) for first, last in found if last <= end),
    )


def marked(text: str, opening: str, closing: str) -> Excerpt:
    """`text`, in which a database put `opening` and `closing` around what it found."""
    plain = ""
    marks: list[_Span] = []
    for piece in text.split(opening):
        inside, mark, rest = piece.partition(closing)
        if mark:
            marks.append((len(plain), len(plain) + len(inside)))
        plain += inside + rest
    return Excerpt(plain, tuple(marks))


def _words(text: str) -> list[tuple[str, _Span]]:
    return [(match[0].casefold(), match.span()) for match in _WORD.finditer(text)]


def _places(term: Term, words: Sequence[tuple[str, _Span]]) -> list[_Span]:
    wanted = [word for word, _ in _words(term.text)]
    found: list[_Span] = []
    for start in range(len(words) - len(wanted) + 1):
        here = words[start : start + len(wanted)]
        pairs = zip([word for word, _ in here], wanted, strict=True)
        *before, (last, its) = pairs
        if all(word == wanted for word, wanted in before) and (last.startswith(its) if term.prefix else last == its):
            found += [span for _, span in here]
    return found


def _joined(spans: Iterable[_Span]) -> list[_Span]:
    """In their order, each once."""
    found = sorted(set(spans))
    return [span for span, following in pairwise([*found, (-1, -1)]) if following[0] != span[0]] if found else []
