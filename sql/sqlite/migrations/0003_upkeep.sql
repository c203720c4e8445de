-- Finds what has expired, and whether a file's content is still named, without reading everything.

CREATE INDEX chat_sessions_expiry ON chat_sessions (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX chat_files_content ON chat_files (key, session_id);

-- A conversation that was forked from another has the turns of that one up to a place, and its own after it.
CREATE TABLE chat_forks (
    session_id  INTEGER PRIMARY KEY REFERENCES chat_sessions (id) ON DELETE CASCADE,
    parent_id   INTEGER NOT NULL REFERENCES chat_sessions (id),  -- which therefore stays as long as the fork
    place       INTEGER NOT NULL CHECK (place > 0)
) STRICT;

CREATE INDEX chat_forks_parent ON chat_forks (parent_id, place);
