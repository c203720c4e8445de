-- keep_turn: a turn that waits; its ending in the place of its intent, and the first ending for good
INSERT INTO spooled_turns (turn_id, destination, user_id, continuation_id, ended, turn, created_at)
VALUES (:turn_id, :destination, :user_id, :continuation_id, :ended, :turn, :now)
ON CONFLICT (turn_id) DO UPDATE SET turn = excluded.turn, ended = 1 WHERE NOT ended AND excluded.ended;

-- keep_turn_file: a file that such a turn gave out
INSERT INTO spooled_turn_files (turn_id, user_id, key, file) VALUES (:turn_id, :user_id, :key, :file)
ON CONFLICT DO NOTHING;

-- find_turn_file: what a principal was given under a key
SELECT file FROM spooled_turn_files WHERE user_id = :user_id AND key = :key LIMIT 1;

-- names_file: whether a turn that waits gave out a file
SELECT 1 FROM spooled_turn_files WHERE key = :key LIMIT 1;

-- files_of: what a principal's turns, or those of one conversation, gave out
SELECT DISTINCT f.key FROM spooled_turn_files f JOIN spooled_turns t ON t.turn_id = f.turn_id
 WHERE t.user_id = :user_id AND (:continuation_id IS NULL OR t.continuation_id = :continuation_id);

-- count_of_user: all that is here of a principal
SELECT count(*) AS turns FROM spooled_turns WHERE user_id = :user_id;

-- forget_turns: for good, whatever their state
DELETE FROM spooled_turns
 WHERE user_id = :user_id AND (:continuation_id IS NULL OR continuation_id = :continuation_id);

-- holds_turns: how many turns of one conversation wait, counted up to a few
SELECT count(*) AS turns
  FROM (SELECT 1 FROM spooled_turns
         WHERE destination = :destination AND user_id = :user_id AND continuation_id = :continuation_id
           AND quarantined_at IS NULL
         LIMIT :most);

-- next_conversation: the one after another, by name
SELECT user_id, continuation_id
  FROM spooled_turns
 WHERE destination = :destination AND (user_id, continuation_id) > (:user_id, :continuation_id)
   AND quarantined_at IS NULL
 ORDER BY user_id, continuation_id
 LIMIT 1;

-- next_turns: of one conversation, in their order
SELECT seq, turn_id, ended, turn, attempts
  FROM spooled_turns
 WHERE destination = :destination AND user_id = :user_id AND continuation_id = :continuation_id
   AND quarantined_at IS NULL
 ORDER BY seq
 LIMIT :most;

-- first_turn: the oldest of one conversation
SELECT turn
  FROM spooled_turns
 WHERE destination = :destination AND user_id = :user_id AND continuation_id = :continuation_id
   AND quarantined_at IS NULL
 ORDER BY seq
 LIMIT 1;

-- newest_answers: turns of one conversation that have ended, newest first
SELECT turn
  FROM spooled_turns
 WHERE destination = :destination AND user_id = :user_id AND continuation_id = :continuation_id
   AND quarantined_at IS NULL AND ended
 ORDER BY seq DESC
 LIMIT :most;

-- drop_turn: the store has it, in the form in which it was read here
DELETE FROM spooled_turns WHERE seq = :seq AND ended = :ended;

-- turn_failed: the store took others since it refused this one last
UPDATE spooled_turns SET attempts = attempts + 1, reason = :reason WHERE seq = :seq;

-- quarantine_turn: it blocks nobody from now on
UPDATE spooled_turns SET quarantined_at = :now, reason = :reason WHERE seq = :seq;

-- keep_file: a file that waits; its content is in place
INSERT INTO spooled_files (destination, key, media_type, size, created_at)
VALUES (:destination, :key, :media_type, :size, :now)
ON CONFLICT (destination, key) DO UPDATE SET quarantined_at = NULL, attempts = 0;

-- next_file: the one after another, by key
SELECT key, media_type, attempts
  FROM spooled_files
 WHERE destination = :destination AND key > :key AND quarantined_at IS NULL
 ORDER BY key
 LIMIT 1;

-- find_file: whether a file's content is here
SELECT size FROM spooled_files WHERE destination = :destination AND key = :key;

-- drop_file: the file store has it
DELETE FROM spooled_files WHERE destination = :destination AND key = :key;

-- file_failed: the file store took others since it refused this one last
UPDATE spooled_files SET attempts = attempts + 1, reason = :reason WHERE destination = :destination AND key = :key;

-- quarantine_file: it blocks nobody from now on
UPDATE spooled_files SET quarantined_at = :now, reason = :reason WHERE destination = :destination AND key = :key;

-- file_bytes: what all files take up
SELECT coalesce(sum(size), 0) AS bytes FROM spooled_files;

-- lease: for whoever works on something, unless somebody else does
INSERT INTO spool_leases (what, owner, until) VALUES (:what, :owner, :now + :seconds)
ON CONFLICT (what) DO UPDATE SET owner = excluded.owner, until = excluded.until
 WHERE owner = excluded.owner OR until < :now OR until > :now + 2 * :seconds;

-- lease_owner: who works on something
SELECT owner FROM spool_leases WHERE what = :what;

-- release: a lease
DELETE FROM spool_leases WHERE what = :what AND owner = :owner;

-- count_turns: what waits and what is set apart, for each destination
SELECT destination, count(*) FILTER (WHERE quarantined_at IS NULL) AS waiting,
       count(*) FILTER (WHERE quarantined_at IS NOT NULL) AS quarantined,
       count(DISTINCT user_id || char(0) || continuation_id) FILTER (WHERE quarantined_at IS NULL) AS conversations,
       min(created_at) FILTER (WHERE quarantined_at IS NULL) AS oldest
  FROM spooled_turns
 GROUP BY destination
 ORDER BY destination;

-- count_files: what waits and what is set apart, for each destination
SELECT destination, count(*) FILTER (WHERE quarantined_at IS NULL) AS waiting,
       count(*) FILTER (WHERE quarantined_at IS NOT NULL) AS quarantined,
       coalesce(sum(size), 0) AS bytes, min(created_at) FILTER (WHERE quarantined_at IS NULL) AS oldest
  FROM spooled_files
 GROUP BY destination
 ORDER BY destination;

-- list_quarantine: what is set apart, and why
SELECT 'turn' AS kind, turn_id AS id, destination, user_id, continuation_id, reason, quarantined_at, turn, seq
  FROM spooled_turns WHERE quarantined_at IS NOT NULL
UNION ALL
SELECT 'file', key, destination, NULL, NULL, reason, quarantined_at, NULL, 0
  FROM spooled_files WHERE quarantined_at IS NOT NULL
 ORDER BY quarantined_at, seq, id;

-- retry_turns: from quarantine to the end of the queue's order they had
UPDATE spooled_turns SET quarantined_at = NULL, attempts = 0
 WHERE quarantined_at IS NOT NULL AND (:id IS NULL OR turn_id = :id);

-- retry_files: from quarantine
UPDATE spooled_files SET quarantined_at = NULL, attempts = 0
 WHERE quarantined_at IS NOT NULL AND (:id IS NULL OR key = :id);

-- discard_turn: for good, and only from quarantine
DELETE FROM spooled_turns WHERE quarantined_at IS NOT NULL AND turn_id = :id;

-- discard_file: for good, and only from quarantine
DELETE FROM spooled_files WHERE quarantined_at IS NOT NULL AND key = :id;
