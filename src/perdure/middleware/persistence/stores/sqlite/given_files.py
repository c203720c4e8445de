"""The files that a turn gave out, in the transaction of its answer."""

import sqlite3
from collections.abc import Mapping

from perdure.middleware.persistence.stores.sqlite.rows import file_of
from perdure.middleware.persistence.stores.sqlite.written_rows import AnswerRow
from perdure.middleware.persistence.turn import StoredFile

__all__ = ["files_kept"]


def files_kept(
    connection: sqlite3.Connection,
    sql: Mapping[str, str],
    answer: AnswerRow,
    key: int,
    continuation_id: str,
    *,
    are_new: bool,
) -> tuple[StoredFile, ...]:
    """Those of the turn `answer` belongs to, in the conversation of that key; added first, if they `are_new`."""
    turn = answer.turn
    if not turn.files:
        return ()
    if are_new:
        for file in turn.files:
            _add(connection, sql, answer, file, key)
    of_turn = {"turn_id": turn.id, "session_id": key, "continuation_id": continuation_id}
    return tuple(map(file_of, connection.execute(sql["files_of_turn"], of_turn)))


def _add(connection: sqlite3.Connection, sql: Mapping[str, str], answer: AnswerRow, file: StoredFile, key: int) -> None:
    newest = connection.execute(sql["newest_version"], {"session_id": key, "name": file.name}).fetchone()
    version, content = (newest["version"], newest["sha256"]) if newest else (0, None)
    connection.execute(
        sql["add_file"],
        {
            "session_id": key,
            "name": file.name,
            "version": version if content == file.sha256 else version + 1,
            "turn_id": answer.turn.id,
            "user_id": answer.turn.principal,
            "bucket": file.bucket,
            "key": file.key,
            "sha256": file.sha256,
            "size": file.size,
            "media_type": file.media_type,
            "created_at": answer.ended_at,
        },
    )
