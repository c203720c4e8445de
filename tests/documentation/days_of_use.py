"""What a few days of use leave behind, for pages about what an operator does with it."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.stores import Answer, Outcome, StoredFile, Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, answered, ended

__all__ = ["fill"]


def fill(folder: Path) -> None:
    """90 turns of three conversations that began three days ago, with a file; and what has expired since."""
    clock = FrozenClock(datetime.now(UTC) - timedelta(days=3))
    store = SqliteStore(folder / "perdure.db", clock)

    def tell(
        conversation: str, prompt: str, user: str, *, expire_after: timedelta | None = None, report: str = ""
    ) -> None:
        clock.advance(60)
        turn = a_turn(prompt, continuation_id=conversation, principal=user, started_at=clock.now())
        store.begin(replace(turn, expire_after=expire_after), Window(0, 0))
        if prompt == "work 9":
            return  # was interrupted
        if prompt == "work 7":
            store.finish(ended(turn, Outcome.FAILED, Answer(error={"type": "ValueError", "message": "no"})))
            return
        files = (_keep(folder, report, user),) if report else ()
        store.finish(replace(answered(turn, f"You said: {prompt}"), files=files))

    for number in range(5):
        tell(f"old-{number}", "forget this soon", "local", expire_after=timedelta(hours=1))
    for number in range(1, 31):
        tell("trip", f"trip {number}", "alice")
        tell("work", f"work {number}", "alice")
    for number in range(1, 31):
        said = "A hotel in Lisbon, with a table for two." if number == 12 else f"Step {number}."
        tell("my-project", said, "local", report="report.pdf" if number == 30 else "")
    store.close()


def _keep(folder: Path, name: str, user: str) -> StoredFile:
    content = f"The content of {name}."
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    key = f"{user}/{sha256}/{name}"
    snapshot = folder / name
    snapshot.write_text(content)
    LocalFileStore(folder / "files", "mcp-files").put(key, snapshot, media_type="application/pdf")
    snapshot.unlink(missing_ok=True)
    return StoredFile(
        key=key, bucket="mcp-files", name=name, sha256=sha256, size=len(content), media_type="application/pdf"
    )
