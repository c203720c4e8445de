"""What somebody wants to find among the messages: one small language, whatever the store.

lisbon hotel              both words, in one message
"table for two"           this phrase
lisb*                     a word that begins so
lisbon or porto           either; `or` binds tighter than the space between words
-madrid                   not this word (or phrase)
tool:chat user:alice in:my-project outcome:failed since:7d until:2026-01-31
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from perdure.durations import as_duration
from perdure.errors import QuestionError
from perdure.middleware.persistence.turn import Outcome

__all__ = ["FILTERS", "Question", "Term", "question_of"]

FILTERS = ("user", "in", "tool", "outcome", "since", "until")

_LONGEST = 2000
"""Characters. Nobody writes more by hand, and some databases take no more."""

_PIECE = r"""(?P<minus>-*)(?:(?P<filter>[A-Za-z]+):)?(?:"(?P<phrase>[^"]*)(?P<end>"?)|(?P<word>[^\s"]*))"""
"""Patterns are compiled, by `re` itself, when a question is first read: a server that is never searched reads none."""
_LETTER = r"[^\W_]"
_UNSTORABLE = r"[\x00\ud800-\udfff]"


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a phrase. What of it is a word, each database decides as it did for the messages."""

    text: str
    prefix: bool = False
    """Whether its last word may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    every: tuple[tuple[Term, ...], ...] = ()
    """Of each of these groups, one must be in the message. None: any message; of a turn, its prompt."""
    none: tuple[Term, ...] = ()
    principal: str | None = None
    """None: everybody's, for an operator."""
    continuation_id: str | None = None
    tool: str | None = None
    outcome: Outcome | None = None
    since: datetime | None = None
    until: datetime | None = None
    """The first moment that is too late."""


def question_of(text: str, now: datetime, options: Mapping[str, str | None] | None = None) -> Question:
    """`options`: what filters are given beside the text, by the names of `FILTERS`.

    Raises:
        QuestionError: It cannot be understood; the remedy says how to write it.
    """
    if len(text) > _LONGEST:
        raise QuestionError(
            f"The question has {len(text):,} characters; at most {_LONGEST:,} are read.", remedy="ask for less."
        )
    reader = _Reader()
    for name, value in (options or {}).items():
        if value is not None:
            reader.take_filter(name, value)
    reader.read(re.sub(_UNSTORABLE, "\ufffd", text))
    return reader.question(now)


class _Reader:
    def __init__(self) -> None:
        self._every: list[list[Term]] = []
        self._none: list[Term] = []
        self._filters: dict[str, str] = {}
        self._after_or = False

    def read(self, text: str) -> None:
        at = 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            piece = re.compile(_PIECE).match(text, at)
            if piece is None or piece.end() == at:  # nothing that the pattern could not match is left
                raise QuestionError(f"{text[at:]!r} cannot be read.", remedy="write words, or a phrase in quotes.")
            at = piece.end()
            if piece["phrase"] is not None:
                if not piece["end"]:
                    raise QuestionError(
                        f"The quote before {piece['phrase'][:40]!r} is never closed.",
                        remedy='put a " at the end of the phrase.',
                    )
                if at < len(text) and text[at] == "*":
                    raise QuestionError(
                        "A * stands only at the end of a word, not of a phrase.", remedy='write "a phrase" and word*.'
                    )
            self._take(piece)
        if self._after_or:
            raise _dangling_or()

    def question(self, now: datetime) -> Question:
        asked = self._filters
        if not self._every and self._none:
            raise QuestionError(
                "The question says only what a message shall not hold.", remedy="add a word that it shall hold."
            )
        if not self._every and not asked:
            raise QuestionError("The question is empty.", remedy='write words, such as: lisbon "table for two".')
        since, until = (_moment(name, asked[name], now) if name in asked else None for name in ("since", "until"))
        if since and until and since >= until:
            raise QuestionError(
                f"Nothing lies between since:{asked['since']} and until:{asked['until']}.",
                remedy="exchange them, or leave one out.",
            )
        return Question(
            every=tuple(map(tuple, self._every)),
            none=tuple(self._none),
            principal=asked.get("user"),
            continuation_id=asked.get("in"),
            tool=asked.get("tool"),
            outcome=_outcome(asked["outcome"]) if "outcome" in asked else None,
            since=since,
            until=until,
        )

    def take_filter(self, name: str, value: str) -> None:
        if not value:
            raise QuestionError(f"{name}: names nothing.", remedy=f"write its value behind the colon: {name}:VALUE.")
        if any("\ud800" <= character <= "\udfff" for character in value):  # bytes of a command line: no store has such
            raise QuestionError(f"{name}:{value!a} is no text.", remedy="copy it from a list.")
        if self._filters.setdefault(name, value) != value:
            raise QuestionError(
                f"{name}: stands there twice, with {self._filters[name]!r} and {value!r}.", remedy="leave one of them."
            )

    def _take(self, piece: re.Match[str]) -> None:
        minus, name = piece["minus"], (piece["filter"] or "").lower()
        text = piece["word"] if piece["phrase"] is None else piece["phrase"]
        if name in FILTERS:
            if minus or self._after_or:
                raise QuestionError(
                    f"{name}: stands behind {'a minus' if minus else '`or`'}.",
                    remedy="write it by itself: a filter holds for the whole question.",
                )
            self.take_filter(name, text)
            return
        if name:
            import difflib  # noqa: PLC0415 - only where something is amiss

            meant = difflib.get_close_matches(name, FILTERS, 1, cutoff=0.7)
            if meant:
                raise QuestionError(
                    f"There is no filter {name}:, only {', '.join(f'{known}:' for known in FILTERS)}.",
                    remedy=f'write {meant[0]}:{text}, or "{name} {text}" for the words.',
                )
            text = f"{piece['filter']}:{text}"
        if piece["phrase"] is None and text.lower() == "or" and not minus:
            if not self._every or self._after_or:
                raise _dangling_or()
            self._after_or = True
            return
        self._take_term(_term(text, quoted=piece["phrase"] is not None), excluded=bool(minus))

    def _take_term(self, term: Term, *, excluded: bool) -> None:
        if self._after_or and excluded:
            raise QuestionError(
                f"A minus and `or` cannot be combined at {term.text!r}.", remedy="write -word by itself, without `or`."
            )
        if excluded:
            self._none.append(term)
        elif self._after_or:
            self._every[-1].append(term)
        else:
            self._every.append([term])
        self._after_or = False


def _term(text: str, *, quoted: bool) -> Term:
    prefix = not quoted and text.endswith("*")
    if prefix:
        text = text[:-1]
    if not quoted and "*" in text:
        raise QuestionError(
            f"A * stands only at the end of a word, and not as in {text!r}.", remedy="write the word's beginning and *."
        )
    if not re.search(_LETTER, text):
        raise QuestionError(
            f"{text!r} holds no letter and no digit, and only words are searched."
            if text
            else "There is a phrase, a minus or a * without a word.",
            remedy="leave it out, or name a word that stands beside it.",
        )
    return Term(text, prefix)


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text.lower())
    except ValueError:
        raise QuestionError(f"There is no outcome {text!r}.", remedy=f"write one of {', '.join(Outcome)}.") from None


def _moment(name: str, text: str, now: datetime) -> datetime:
    """A date counts whole, in the local time zone, and `7d` is that long ago."""
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            day = datetime.fromisoformat(text).astimezone()
            return day + timedelta(days=1) if name == "until" else day
        if text[:4].isdigit() and "-" in text:
            return datetime.fromisoformat(text).astimezone()
        return now - timedelta(seconds=float(as_duration(text)))
    except (ValueError, OverflowError):
        raise QuestionError(
            f"{name}:{text} is no time.",
            remedy=f"write a date ({name}:2026-01-31), a date and time ({name}:2026-01-31T18:00), or how long ago"
            f" ({name}:7d, {name}:12h).",
        ) from None


def _dangling_or() -> QuestionError:
    return QuestionError(
        "`or` stands without a word on each side.", remedy='write one on each side, or "or" in quotes for the word.'
    )
