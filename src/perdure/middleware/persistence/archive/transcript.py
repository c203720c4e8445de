"""Conversations as Markdown, for people to read: a file for each, with links to copies of the files in it.

index.md                     a line for each conversation
<user>/<id>.md               its turns in their order; what was said is quoted, so that its own headings stay its own
files/<sha256>/<name>        the content of each file, once
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from perdure.middleware.persistence.archive.reading import (
    conversations_of,
    copied,
    files_by_turn,
    made_folder,
    turns_of,
)
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.turn import ConversationSummary, StoredFile, Turn
from perdure.readable import count, printable_text

__all__ = ["Written", "transcript", "write_transcripts"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._@-]+")
_LONGEST_NAME = 80

Link = Callable[[StoredFile], str]
"""Where a file is to be found from the transcript; empty if nowhere."""


@dataclass(slots=True)
class Written:
    conversations: int = 0
    turns: int = 0
    files: int = 0
    missing: list[str] = field(default_factory=list)
    """URIs of files whose content is not there any more."""


def write_transcripts(
    folder: Path,
    store: Store,
    file_store: FileStore,
    *,
    principal: str | None,
    at: datetime,
    progress: Callable[[int, int], None],
) -> Written:
    """Everything, or what `principal` has, into `folder`, which is new or empty.

    `progress` is told how many conversations are done, and how many are known of.

    Raises:
        PerdureError: The folder cannot be used, or what is kept cannot be read.
    """
    made_folder(folder)
    done = Written()
    names: set[str] = set()
    lines = list(conversations_of(store, principal))
    with (folder / "index.md").open("w", encoding="utf-8") as index:
        index.write(f"# Conversations\n\n{len(lines):,}, as of {_time(at)}. The newest first.\n\n")
        for number, line in enumerate(lines, start=1):
            name = _free_name(f"{_safe(line.principal)}/{_safe(line.continuation_id)}", names)
            target = folder / f"{name}.md"
            target.parent.mkdir(exist_ok=True, mode=0o700)
            index.write(
                f"- [{_plain(line.continuation_id)}](<{name}.md>), {_plain(line.principal)}:"
                f" {count(line.turns, 'turn')}, last {_time(line.updated_at)}\n"
            )

            def link(file: StoredFile) -> str:
                kept = Path("files", file.sha256, _safe(file.name))
                (folder / kept).parent.mkdir(exist_ok=True, mode=0o700)
                if copied(file_store, file, folder / kept) is None:
                    done.missing.append(file.uri)
                    return ""
                done.files += 1
                return f"../{kept}"

            with target.open("w", encoding="utf-8") as out:
                for piece in transcript(line, turns_of(store, line), files_by_turn(store, line), link):
                    out.write(piece)
            done.conversations += 1
            done.turns += line.turns
            progress(number, len(lines))
    return done


def transcript(
    line: ConversationSummary,
    turns: Iterable[Turn],
    files: Mapping[str, Sequence[StoredFile]],
    link: Link = lambda file: file.uri,
) -> Iterator[str]:
    """A piece for each turn: the conversation's length does not matter."""
    yield f"# {_plain(line.continuation_id)}\n\n"
    yield f"User {_plain(line.principal)}, {count(line.turns, 'turn')}, begun {_time(line.created_at)}.\n"
    for turn in turns:
        yield "".join(f"\n{part}\n" for part in _parts(turn, files.get(turn.id, ()), link))


def _parts(turn: Turn, files: Sequence[StoredFile], link: Link) -> Iterator[str]:
    yield f"## {turn.place}. {_plain(turn.tool)}, {_time(turn.started_at)}, {turn.outcome.value}"
    others = {name: value for name, value in turn.arguments.items() if value != turn.prompt}
    yield _quoted("Prompt", turn.prompt)
    if others:
        text = json.dumps(others, ensure_ascii=False, indent=2)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        yield f"Arguments:\n\n{fence}json\n{printable_text(text)}\n{fence}"
    if turn.answer is not None:
        yield _quoted("Answer", turn.answer.text)
        if (error := turn.answer.error) is not None:
            yield f"Error: {_plain(str(error.get('type')))}: {_plain(str(error.get('message')))}"
    for file in files:
        where = link(file)
        name = f"[{_plain(file.name)}](<{where}>)" if where else f"{_plain(file.name)} (its content is gone)"
        yield f"File: {name}, version {file.version}, {file.size:,} bytes"


def _quoted(what: str, text: str) -> str:
    lines = printable_text(text).replace("\r\n", "\n").split("\n")
    return f"**{what}**\n\n" + "\n".join(f"> {line}".rstrip() for line in lines)


def _plain(text: str) -> str:
    """On one line, and nothing of it is Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", " ".join(printable_text(text).split()))


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _safe(name: str) -> str:
    return (_UNSAFE.sub("_", name).lstrip(".") or "_")[-_LONGEST_NAME:].lstrip(".") or "_"


def _free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with a number where another has it; on a disk that does not tell A from a, either."""
    name, number = wanted, 2
    while name.lower() in taken:
        name, number = f"{wanted}-{number}", number + 1
    taken.add(name.lower())
    return name
