-- Messages lie on disk in the order in which they were written, and an index says where those of a conversation are.
-- Where they lay by conversation, each was put between others: SQLite then writes anew the page and both beside it, and
-- most pages were so full that nearly every message did that. 64 turns at once wrote 320 pages, and write 93.

CREATE TABLE chat_messages_appended (
    id           INTEGER NOT NULL UNIQUE CHECK (id = (session_id << 32) | (turn_seq << 1) | part),
    session_id   INTEGER NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
    turn_id      TEXT    NOT NULL,
    turn_seq     INTEGER NOT NULL,
    part         INTEGER NOT NULL CHECK (part IN (0, 1)),  -- 0 the prompt, 1 the answer
    role         TEXT    NOT NULL CHECK (role = CASE part WHEN 0 THEN 'user' ELSE 'assistant' END),
    content      TEXT    NOT NULL,                         -- readable; NUL and lone surrogates as U+FFFD
    body         TEXT,                                     -- the exact form: ASCII JSON
    tool         TEXT    CHECK (part = 1 OR tool IS NOT NULL),
    outcome      TEXT    CHECK (CASE part WHEN 0 THEN outcome IS NULL
                                          ELSE outcome IN ('answered', 'failed', 'cancelled') END),
    tokens       INTEGER NOT NULL DEFAULT 0,               -- on the answer: of the whole turn
    digest       TEXT    CHECK (part = 1 OR digest IS NOT NULL),
    after_place  INTEGER,
    deferred     INTEGER NOT NULL DEFAULT 0,
    lease_until  TEXT,
    created_at   TEXT    NOT NULL,
    metadata     TEXT
) STRICT;

INSERT INTO chat_messages_appended SELECT * FROM chat_messages ORDER BY id;

-- What somebody deletes later must not stand in the free pages from before.
PRAGMA secure_delete = ON;

DROP TABLE chat_messages;

PRAGMA secure_delete = OFF;

-- Whatever an operator has made, such as a view, says `chat_messages` as before, and must not stop this for it.
PRAGMA legacy_alter_table = ON;

ALTER TABLE chat_messages_appended RENAME TO chat_messages;

PRAGMA legacy_alter_table = OFF;

CREATE UNIQUE INDEX chat_messages_turn ON chat_messages (turn_id) WHERE part = 0;

CREATE INDEX chat_messages_window ON chat_messages (session_id, turn_seq, tokens, part, outcome)
    WHERE part = 1 AND outcome = 'answered';
