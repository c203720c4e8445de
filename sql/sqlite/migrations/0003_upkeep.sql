-- Finds what has expired, and whether a file's content is still named, without reading everything.

CREATE INDEX chat_sessions_expiry ON chat_sessions (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX chat_files_content ON chat_files (key, session_id);
