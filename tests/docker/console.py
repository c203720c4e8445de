"""Console sessions as documents show them: what is typed, and what is seen. They are run as they stand there."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

END = "=end of a command= "


@dataclass(frozen=True)
class Typed:
    command: str
    seen: tuple[str, ...]
    """The lines that follow in the document; `…` in them stands for anything."""

    def is_as_written(self, output: list[str]) -> bool:
        """Whether `output` are those lines. Where the document shows none, whatever there is."""
        if not self.seen:
            return True
        return len(output) == len(self.seen) and all(map(_fits, self.seen, output))


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
                found.extend(_typed(block))
    return found


def run(session: list[Typed], *, folder: Path, environment: Mapping[str, str]) -> Iterator[Ran]:
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


def _typed(block: str) -> Iterator[Typed]:
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *seen = piece.rstrip("\n").splitlines()
        yield Typed(command, tuple(seen))


def _fits(written: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, written.split("…"))), line) is not None
