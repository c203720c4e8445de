-- Conversations and their messages. The words are those of docs/decisions and of the Postgres schema.

CREATE TABLE chat_sessions (
    id               INTEGER PRIMARY KEY,
    user_id          TEXT    NOT NULL CHECK (user_id <> ''),
    continuation_id  TEXT    NOT NULL CHECK (length(continuation_id) BETWEEN 1 AND 200),
    minted           INTEGER NOT NULL DEFAULT 0,  -- 1: perdure made the id; 0: a client chose it
    last_place       INTEGER NOT NULL DEFAULT 0,
    metadata         TEXT,
    created_at       TEXT    NOT NULL,
    updated_at       TEXT    NOT NULL,
    expires_at       TEXT,
    UNIQUE (user_id, continuation_id)
) STRICT;

-- The primary key is the place itself: session, turn, part packed into one integer. Rows of a conversation so lie
-- side by side on disk, and reading its newest turns is one range read, however long it is.
CREATE TABLE chat_messages (
    id           INTEGER PRIMARY KEY CHECK (id = (session_id << 32) | (turn_seq << 1) | part),
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

CREATE UNIQUE INDEX chat_messages_turn ON chat_messages (turn_id) WHERE part = 0;

CREATE INDEX chat_messages_window ON chat_messages (session_id, turn_seq, tokens)
    WHERE part = 1 AND outcome = 'answered';
