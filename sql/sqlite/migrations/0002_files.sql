-- Files that turns gave out. The bytes are in the file store, under `key`.

CREATE TABLE chat_files (
    session_id  INTEGER NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
    name        TEXT    NOT NULL,                       -- the logical name
    version     INTEGER NOT NULL CHECK (version > 0),   -- of this name in this conversation
    turn_id     TEXT    NOT NULL,
    user_id     TEXT    NOT NULL CHECK (user_id <> ''),
    bucket      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    sha256      TEXT    NOT NULL CHECK (length(sha256) = 64),
    size        INTEGER NOT NULL CHECK (size >= 0),     -- bytes
    media_type  TEXT    NOT NULL,
    created_at  TEXT    NOT NULL,
    PRIMARY KEY (session_id, name, version, turn_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX chat_files_turn ON chat_files (turn_id);

CREATE INDEX chat_files_key ON chat_files (user_id, key);
