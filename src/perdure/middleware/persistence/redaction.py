"""Replaces secrets before anything is written: the one place that decides what a secret is.

Shapes that their issuers document and that mean nothing else are replaced wherever they stand; values are replaced
whole where the name they stand under says what they are. What was replaced stays visible: `[redacted:github-token]`.
Every pattern runs in time linear in the text.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from perdure.middleware.persistence.turn import Json

__all__ = ["Redactor"]

# name, literal strings of which one must be in the text for the pattern to be tried, pattern
_SHAPES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("anthropic-key", ("sk-ant-",), r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    ("openai-key", ("sk-",), r"\bsk-(?:(?:proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})"),
    ("github-token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    ("github-token", ("github_pat_",), r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    ("gitlab-token", ("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("slack-token", ("xox", "xapp-"), r"\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}"),
    ("aws-access-key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    ("google-key", ("AIza",), r"\bAIza[A-Za-z0-9_-]{35}"),
    ("stripe-key", ("k_live_", "k_test_"), r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("supabase-key", ("sb_secret_", "sbp_"), r"\b(?:sb_secret_|sbp_)[A-Za-z0-9_-]{20,}"),
    ("huggingface-token", ("hf_",), r"\bhf_[A-Za-z0-9]{30,}"),
    ("npm-token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}"),
    ("pypi-token", ("pypi-AgE",), r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    ("jwt", ("eyJ",), r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    ("bearer-token", ("earer ", "EARER "), r"(?i)(?<=\bbearer )(?=[A-Za-z._~+/-]{0,200}[0-9])[A-Za-z0-9._~+/-]{16,}=*"),
    ("url-password", ("://",), r"(?<=://)[^\s/:@\"'<>]{0,200}:[^\s/@\"'<>]{1,200}(?=@)"),
    (
        "private-key",
        ("PRIVATE KEY-----",),
        # Header, lines of base64 or of PEM headers (line breaks possibly as escapes), and the footer if it is there.
        r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----"
        r"(?:(?:\s|\\{1,4}[nr])*+"
        r"(?:[A-Za-z0-9+/=]{20,}+|[A-Za-z0-9+/]{0,19}=|(?:Proc-Type|DEK-Info): [^\n\\]{1,80}+))*+"
        r"(?:(?:\s|\\{1,4}[nr])*+[A-Za-z0-9+/=]{0,76}(?:\s|\\{1,4}[nr])*+"
        r"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----)?",
    ),
)

_NAMES_OF_SECRETS = (
    r"(?:[\w-]{0,60}[_-]|(?-i:[A-Za-z0-9]{0,60}[a-z0-9](?=[A-Z])))?"
    r"(?:password|passwd|passphrase|secret|client[_-]?secret|secret[_-]?access[_-]?key|api[_-]?key|access[_-]?token"
    r"|refresh[_-]?token|auth[_-]?token|id[_-]?token|session[_-]?token|bearer[_-]?token|private[_-]?key"
    r"|secret[_-]?key|authorization)"
)


@cache
def _pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """Compiled when it is needed first: all of them take 4 ms, and a server that is never told a secret needs none."""
    return re.compile(text, flags)


# A member of a JSON text, as tools give their structured content in their text too; plain, or within another JSON text.
_SECRET_MEMBER = (
    rf'"(?P<name>{_NAMES_OF_SECRETS})"\s{{0,20}}:\s{{0,20}}"(?P<value>(?:[^"\\]|\\.)++)"'
    rf'|\\"(?P<name2>{_NAMES_OF_SECRETS})\\"\s{{0,20}}:\s{{0,20}}\\"(?P<value2>(?:[^"\\]|\\\\(?:\\\\|\\"|[^"\\]))++)\\"'
)


_NAME_OF_A_MEMBER = rf'"{_NAMES_OF_SECRETS}"\s{{0,20}}:\s{{0,20}}[^"\s]'


class Redactor:
    """`enabled=False` still applies `patterns`: those were asked for by name."""

    def __init__(self, *, enabled: bool = True, patterns: Iterable[str] = ()) -> None:
        self._enabled = enabled
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._harmless: set[str] = set()
        """Short texts in which nothing was found: names of members above all, which come with every call."""
        self._plain_names: set[str] = set()
        """Short names that are no secret's."""
        self._passed_names: set[str] = set()
        """Short names in which nothing was found, and which are no secret's: both at once, for a whole object."""

    def text(self, text: str) -> str:
        if len(text) <= _SHORT and text in self._harmless:
            return text
        redacted = text
        if self._enabled and _may_hold_a_shape(text):
            for name, hints, shape in _SHAPES:
                if any(hint in redacted for hint in hints):
                    redacted = _pattern(shape).sub(f"[redacted:{name}]", redacted)
        for pattern in self._patterns:
            redacted = pattern.sub("[redacted:pattern]", redacted)
        if self._enabled and '"' in redacted and ":" in redacted and _may_name_a_secret(redacted):
            redacted = self._in_json_text(
                _pattern(_SECRET_MEMBER, re.IGNORECASE | re.DOTALL).sub(_without_value, redacted)
            )
        if redacted is text and len(text) <= _SHORT:
            _remember(text, self._harmless)
        return redacted

    def _in_json_text(self, text: str) -> str:
        """`text`, if it is JSON in which a name says that numbers or lists are secret, written anew without them."""
        if text.lstrip()[:1] not in ("{", "[") or _pattern(_NAME_OF_A_MEMBER, re.IGNORECASE).search(text) is None:
            return text
        try:
            value = json.loads(text)
            found = self.json(value, lambda leaf: leaf)
        except (ValueError, RecursionError):
            return text
        if found == value:
            return text
        return json.dumps(found, ensure_ascii=False, indent=2 if "\n" in text else None)

    def remembering(self) -> Callable[[str], str]:
        """As `text`, for the texts of one turn, of which the long ones stand there several times."""
        return _Remembering(self.text)

    def json(self, value: Json, text: "Callable[[str], str] | None" = None) -> Json:
        """`value` with every string redacted by `text`, at any depth, names of members included."""
        redact = text or self.remembering()
        # Not `match`, which takes four times as long: this goes over all that a tool was given and gave back.
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, dict):
            return self._object(value, redact)
        if isinstance(value, list):
            return [self.json(item, redact) for item in value]
        return value

    def finds_nothing_in(self, *values: Json) -> bool:
        """Whether `json` would surely leave all of them as they are: told in a fraction of its time, without copies."""
        seen: list[str] = []
        pending = list(values)
        for value in pending:  # which grows meanwhile
            if isinstance(value, str):
                if len(value) <= _SHORT:
                    if value not in self._harmless and self.text(value) != value:
                        return False
                # What a tool says stands in its result several times.
                elif value not in seen:
                    if self.text(value) != value:
                        return False
                    if len(seen) < _MOST_COMPARED:
                        seen.append(value)
            elif isinstance(value, dict):
                if not self._passed_names.issuperset(value) and not self._have_passed(value):
                    return False
                pending += value.values()
            elif isinstance(value, list):
                pending += value
        return True

    def _have_passed(self, names: Iterable[str]) -> bool:
        for name in names:
            if self._enabled and name not in self._plain_names and self._is_a_secrets_name(name):
                return False
            if name not in self._harmless and self.text(name) != name:
                return False
            _remember(name, self._passed_names)
        return True

    def _object(self, value: dict[str, Any], redact: Callable[[str], str]) -> Json:
        found: dict[str, Json] = {}
        for number, (name, item) in enumerate(value.items()):
            redacted = name if name in self._harmless else redact(name)
            if redacted != name and redacted in found:  # Two names that were secrets would be the same now.
                redacted = f"{redacted}#{number}"
            found[redacted] = self._member(name, item, redact)
        return found

    def _is_a_secrets_name(self, name: str) -> bool:
        folded = name.casefold()
        if any(word in folded for word in _IN_NAMES_OF_SECRETS) and (
            _pattern(_NAMES_OF_SECRETS, re.IGNORECASE).fullmatch(name[:100])
        ):
            return True
        _remember(name, self._plain_names)
        return False

    def _member(self, name: str, value: Any, redact: Callable[[str], str]) -> Json:
        if self._enabled and name not in self._plain_names and self._is_a_secrets_name(name):
            return _without_leaves(value, f"[redacted:{name[:100].lower()}]")
        return self.json(value, redact)


def _may_hold_a_shape(text: str) -> bool:
    """Cheap, and never wrongly false: each shape has one of these in it."""
    if len(text) < _SHORTEST_SHAPE and "://" not in text:
        return False
    for rare, hints in _HINTS.items():
        if rare in text:  # in a fiftieth of the time that a longer string takes
            for hint in hints:
                if hint in text:
                    return True
    return False


_SHORTEST_SHAPE = 15
"""Characters: of what has no `://` in it."""

_RARE = "-_JKSzR"
"""Characters: none of them is in every text."""

_NEEDED_BESIDES = {"xox": "-", "://": "@"}
"""By hint: what the rest of its shape always has."""


def _by_rare_character() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for hint in dict.fromkeys(hint for _, hints, _ in _SHAPES for hint in hints):
        rare = _NEEDED_BESIDES.get(hint) or next((character for character in _RARE if character in hint), "")
        found[rare] = (*found.get(rare, ()), hint)
    return found


_HINTS = _by_rare_character()

_IN_NAMES_OF_SECRETS = ("pass", "secret", "key", "token", "author")
"""Without an "i": a pattern takes Turkish ones for it, which a program of that language makes of "AUTHORIZATION"."""


_END_OF_A_NAME = re.compile(r'"\s{0,20}:')


def _may_name_a_secret(text: str) -> bool:
    """Cheap, and never wrongly false."""
    if _END_OF_A_NAME.search(text) is None:
        return False
    folded = text.casefold()
    return any(word in folded for word in _IN_NAMES_OF_SECRETS)


_SHORT = 40
_MOST_REMEMBERED = 2000
_MOST_COMPARED = 8
"""Longer texts of one message, to which its others are compared before they are searched."""


def _remember(text: str, among: set[str]) -> None:
    if len(text) <= _SHORT and len(among) < _MOST_REMEMBERED:
        among.add(text)


def _without_leaves(value: Json, instead: str) -> Json:
    """`value` with `instead` for every text and number in it. That there is nothing is no secret."""
    match value:
        case bool() | None | "":
            return value
        case dict():
            return {name: _without_leaves(item, instead) for name, item in value.items()}
        case list():
            return [_without_leaves(item, instead) for item in value]
        case _:
            return instead


def _without_value(member: "re.Match[str]") -> str:
    kind = "value" if member["value"] is not None else "value2"
    name = (member["name"] or member["name2"]).lower()
    start, end = member.start(kind) - member.start(), member.end(kind) - member.start()
    return f"{member[0][:start]}[redacted:{name}]{member[0][end:]}"


class _Remembering:
    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        if len(text) <= _SHORT:
            return self._redact(text)
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = self._redact(text)
        return found
