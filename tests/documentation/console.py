"""Console sessions as documents show them: what is typed, and what is seen. They are run as they stand there."""

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

END = "=end of a command= "


@dataclass(frozen=True)
class Typed:
    command: str
    seen: tuple[str, ...]
    """The lines that follow in the document; `…` in them stands for anything, and alone on a line for any lines."""

    def is_as_written(self, output: list[str]) -> bool:
        """Whether `output` are those lines. Where the document shows none, whatever there is."""
        return (
            not self.seen
            or re.fullmatch("".join(map(_pattern, self.seen)), "".join(f"{line}\n" for line in output)) is not None
        )


@dataclass(frozen=True)
class Ran:
    typed: Typed
    output: list[str]
    code: int

    @property
    def is_as_written(self) -> bool:
        shown_to_fail = any(line.startswith("FAILED") for line in self.typed.seen)
        return self.typed.is_as_written(self.output) and (self.code != 0) == shown_to_fail


def sessions(document: Path, headings: set[str]) -> list[Typed]:
    """All that is typed below these headings of the second level, in its order."""
    found: list[Typed] = []
    for section in re.split(r"^## ", document.read_text(), flags=re.MULTILINE)[1:]:
        if section.partition("\n")[0] in headings:
            for block in re.findall(r"^```console\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
                found.extend(typed(block))
    return found


def run(session: Iterable[Typed], *, folder: Path, environment: Mapping[str, str]) -> Iterator[Ran]:
    """Everything in one shell, up to the first command that does not go as written."""
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=dict(environment),
    )
    with shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            for typed in session:
                # What a command asks of a terminal, it gets nothing of: the rest of the session is not its input.
                shell.stdin.write(f"{{ {typed.command}\n}} </dev/null; echo '{END}'$?\n")
                shell.stdin.flush()
                output: list[str] = []
                while not (line := shell.stdout.readline()).startswith(END):
                    if not line:
                        raise AssertionError(f"the shell ended at: {typed.command}")
                    output.append(line.rstrip())
                ran = Ran(typed, output, int(line.removeprefix(END)))
                yield ran
                if not ran.is_as_written:
                    return
        finally:
            shell.kill()


def typed(block: str) -> Iterator[Typed]:
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = piece.rstrip("\n").splitlines()
        # A command goes on in the next line after a backslash, or a pipe.
        end = next(number for number, line in enumerate(lines, 1) if not line.endswith(("\\", "|")))
        yield Typed("\n".join(lines[:end]), tuple(lines[end:]))


_DIFFERS_EACH_TIME = {
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": None,  # an id
    r"(?:just now|\d+ (?:s|min|h|d) ago)": None,
    r"\d[\d.,]* (?:ms|s|min)\b": None,
    r"\d{4}-\d\d-\d\d \d\d:\d\d": None,
    r"…": ".*",
    r" {2,}": r"\s+",
}
"""What is written, and what then stands for it: None, another of its kind. A column is as wide as what is in it."""


def _pattern(written: str) -> str:
    if written == "…":
        return r"(?:.*\n)*"
    pattern = ""
    for piece in re.split(f"({'|'.join(_DIFFERS_EACH_TIME)})", written):
        kind = next((kind for kind in _DIFFERS_EACH_TIME if re.fullmatch(kind, piece)), "")
        pattern += (_DIFFERS_EACH_TIME[kind] or kind) if kind else re.escape(piece)
    return pattern + r"\s*\n"
