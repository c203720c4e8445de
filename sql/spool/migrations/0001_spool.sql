-- What waits for a store that is away: whole turns, and the names of files whose content lies beside this database.

CREATE TABLE spooled_turns (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they go to the store
    turn_id          TEXT    NOT NULL UNIQUE,
    destination      TEXT    NOT NULL,                   -- the store that they wait for
    user_id          TEXT    NOT NULL,
    continuation_id  TEXT    NOT NULL,
    ended            INTEGER NOT NULL,                   -- 0: an intent, whose tool still runs
    turn             TEXT    NOT NULL,                   -- the whole turn: ASCII JSON
    attempts         INTEGER NOT NULL DEFAULT 0,         -- refused while the store took others
    quarantined_at   TEXT,
    reason           TEXT,                               -- why the store did not take it, last
    created_at       TEXT    NOT NULL
) STRICT;

CREATE INDEX spooled_turns_waiting ON spooled_turns (destination, user_id, continuation_id, seq)
    WHERE quarantined_at IS NULL;

CREATE TABLE spooled_turn_files (
    turn_id  TEXT NOT NULL REFERENCES spooled_turns (turn_id) ON DELETE CASCADE,
    user_id  TEXT NOT NULL,
    key      TEXT NOT NULL,
    file     TEXT NOT NULL,                              -- ASCII JSON
    PRIMARY KEY (turn_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX spooled_turn_files_key ON spooled_turn_files (user_id, key);

CREATE TABLE spooled_files (
    destination     TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    media_type      TEXT    NOT NULL,
    size            INTEGER NOT NULL,                    -- bytes
    attempts        INTEGER NOT NULL DEFAULT 0,
    quarantined_at  TEXT,
    reason          TEXT,
    created_at      TEXT    NOT NULL,
    PRIMARY KEY (destination, key)
) STRICT, WITHOUT ROWID;

-- Whoever works on a conversation's turns, or on a file. To lose one does no harm: to send a turn twice is to send it once.
CREATE TABLE spool_leases (
    what   TEXT PRIMARY KEY,
    owner  TEXT NOT NULL,
    until  REAL NOT NULL                                 -- seconds since the epoch
) STRICT, WITHOUT ROWID;
