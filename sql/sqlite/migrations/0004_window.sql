-- The window is read from its index alone. SQLite looks into the rows for part and outcome, each on another page of the
-- disk, unless these two stand in the index as well, though the same is said of all of its rows.

DROP INDEX chat_messages_window;

CREATE INDEX chat_messages_window ON chat_messages (session_id, turn_seq, tokens, part, outcome)
    WHERE part = 1 AND outcome = 'answered';
