"""What a server could have kept, and the command line over it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Answer, Outcome, Turn, Window, new_turn_id

__all__ = ["BEGAN", "Data"]

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Data:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqliteStore(folder / "perdure.db")

    def turn(
        self,
        prompt: str,
        answer: str | None = "answered",
        *,
        conversation: str = "c",
        user: str = "local",
        outcome: Outcome = Outcome.ANSWERED,
        error: dict[str, str] | None = None,
        tool: str = "chat",
        others: dict[str, Any] | None = None,
        began: datetime = BEGAN,
        **changes: Any,
    ) -> Turn:
        turn = Turn(
            id=new_turn_id(BEGAN),
            principal=user,
            continuation_id=conversation,
            tool=tool,
            prompt=prompt,
            arguments={"prompt": prompt, **(others or {})},
            started_at=began,
            lease_until=began + timedelta(minutes=1),
            metadata={"protocol_version": "2026-07-28"},
            digest="d",
            stored_form=True,
            **changes,
        )
        self.store.begin(turn, Window(0, 0))
        if answer is not None:
            result = {"content": [{"type": "text", "text": answer}]} if error is None else None
            ended = Answer(text=answer, result=result, error=error)
            self.store.finish(turn.ended(outcome, began + timedelta(milliseconds=250), ended))
        return turn

    def run(self, *arguments: str, columns: int = 120) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "PERDURE_DATA_DIR": str(self.folder),
            "PERDURE_CONFIG": os.devnull,
            "COLUMNS": str(columns),
        }
        return subprocess.run(
            [sys.executable, "-c", "from perdure.cli import main; main()", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *arguments: str) -> dict:
        ran = self.run(*arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)
