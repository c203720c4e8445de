"""What a viewer could have to show: turns as `cli.kept_data` keeps them, with files, and at their times."""

import hashlib
import struct
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cli.kept_data import BEGAN, Data

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files.names import tenant_of
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Outcome, StoredFile, Turn
from perdure.testing import FrozenClock

__all__ = ["Kept", "kept_to_look_at", "picture"]

BUCKET = "mcp-files"


class Kept(Data):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = FrozenClock()
        self.store = SqliteStore(folder / "perdure.db", self.clock)
        self.file_store = LocalFileStore(folder / "files", BUCKET)

    def file(self, name: str, content: bytes, media_type: str, *, user: str = "local") -> StoredFile:
        """Its content is there; to be given to a turn."""
        sha256 = hashlib.sha256(content).hexdigest()
        key = f"{tenant_of(user)}/{sha256}/file"
        self.folder.mkdir(parents=True, exist_ok=True)
        snapshot = self.folder / "snapshot"
        snapshot.write_bytes(content)
        self.file_store.put(key, snapshot, media_type=media_type)
        snapshot.unlink(missing_ok=True)
        return StoredFile(key=key, bucket=BUCKET, name=name, sha256=sha256, size=len(content), media_type=media_type)

    def turn(self, *said: str | None, began: datetime = BEGAN, **about: Any) -> Turn:
        """Kept when it began."""
        self.clock.set(began)
        return super().turn(*said, began=began, **about)

    def close(self) -> None:
        self.store.close()


def kept_to_look_at(folder: Path) -> Kept:
    """A morning's work of three people."""
    kept = Kept(folder)
    now = datetime.now(UTC)

    def minutes(ago: float) -> datetime:
        return now - timedelta(minutes=ago)

    kept.turn(
        "Translate the release notes to Portuguese.",
        "Pronto. As notas estão em `NOTES.pt.md`.",
        conversation="6f1c2b9a-6a0e-4d57-9a55-0b1f0d2f7c11",
        user="alice",
        tool="translate",
        began=minutes(60 * 26),
    )
    kept.turn(
        "Why did the nightly import fail?",
        "",
        conversation="nightly-import",
        user="ops",
        tool="query_logs",
        outcome=Outcome.FAILED,
        error={"type": "TimeoutError", "message": "the log service did not answer within 30 s"},
        began=minutes(190),
    )
    kept.turn(
        "Summarise the last 40 support tickets.",
        "",
        conversation="support-digest",
        user="alice",
        tool="summarise",
        outcome=Outcome.CANCELLED,
        began=minutes(95),
    )
    kept.turn(
        "Crawl the documentation for dead links.",
        None,
        conversation="dead-links",
        user="ops",
        tool="crawl",
        began=minutes(75),
    )
    kept.turn(
        "Draw the sales of the last two quarters, by month.",
        "Here they are. April was the best month, and **every month of Q2 beat its predecessor in Q1**.\n\n"
        "| month | sales |\n| --- | --- |\n| January | 1,204 |\n| February | 1,187 |\n| March | 1,460 |\n"
        "| April | 2,031 |\n| May | 1,890 |\n| June | 1,975 |\n",
        conversation="sales-review",
        tool="plot_sales",
        began=minutes(31),
        files=(
            kept.file("sales.png", picture(), "image/png"),
            kept.file("sales.csv", b"month,sales\nJanuary,1204\n", "text/csv"),
        ),
    )
    kept.turn(
        "Two threads call next_id(), which does `last += 1` and returns it. Is that safe?",
        "No. `last += 1` reads, adds and writes in three steps, and two threads may read the same value.\n\n"
        "Use a counter that does it in one:\n\n```python\nimport itertools\n\n_ids = itertools.count(1)\n\n\n"
        "def next_id() -> int:\n    return next(_ids)\n```\n\n- `itertools.count` is atomic in CPython.\n"
        "- On other interpreters, hold a lock.\n",
        conversation="review-ids",
        tool="codereview",
        began=minutes(12),
    )
    for ago, prompt, answer in (
        (9, "Find me a quiet hotel in Lisbon, near the river.", _HOTELS),
        (6, "The second one. Is there a table for two on Friday, at eight?", _TABLE),
        (
            2,
            "Book it, and remind me on Thursday.",
            "Booked: **Friday, 20:00, two people**. I will remind you on Thursday at nine.",
        ),
    ):
        kept.turn(prompt, answer, conversation="lisbon-trip", tool="chat", began=minutes(ago))
    return kept


_HOTELS = """Three are quiet and within five minutes of the river:

1. **Casa do Jasmim**, Alfama. Eleven rooms around a garden.
2. **Lapa Rooms**, Lapa. Residential street, small restaurant downstairs.
3. **Belém House**, Belém. Furthest out, and the cheapest.

> Guests mention church bells at the first, on Sundays.
"""

_TABLE = """Yes. The restaurant of *Lapa Rooms* has a table for two:

| day | time | where |
| --- | --- | --- |
| Friday | 20:00 | terrace |
| Friday | 21:30 | inside |
"""


def picture(width: int = 480, height: int = 220) -> bytes:
    """A bar chart as PNG (RFC 2083): no library for images is needed for these few rectangles."""
    heights = (95, 93, 115, 165, 150, 158)
    rows = []
    for y in range(height):
        row = bytearray(b"\xff\xff\xff" * width)
        for number, tall in enumerate(heights):
            if height - 20 - tall <= y < height - 20:
                left = 30 + number * 72
                row[left * 3 : (left + 48) * 3] = (b"\xc7\xd2\xfe" if number < 3 else b"\x43\x38\xca") * 48
        if y == height - 20:
            row[20 * 3 : (width - 20) * 3] = b"\x9c\xa3\xaf" * (width - 40)
        rows.append(b"\0" + bytes(row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
