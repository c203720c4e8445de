-- line: a conversation and those that it was forked from, the nearest first, each with the last place it has of it
WITH RECURSIVE line (depth, session_id, upto) AS (
    SELECT 0, :session_id, 2147483646
    UNION ALL
    SELECT line.depth + 1, f.parent_id, f.place FROM line JOIN chat_forks f ON f.session_id = line.session_id
)
SELECT session_id, upto FROM line ORDER BY depth;

-- named_fork: a principal's conversation that can be read, if it is a fork
SELECT s.id FROM chat_sessions s JOIN chat_forks f ON f.session_id = s.id
 WHERE s.user_id = :user_id AND s.continuation_id = :continuation_id AND (s.expires_at IS NULL OR s.expires_at > :now);

-- answered: the newest places with an answer of one conversation, and what each costs
SELECT turn_seq, tokens FROM chat_messages
 WHERE session_id = :session_id AND part = 1 AND outcome = 'answered' AND turn_seq < :below
 ORDER BY turn_seq DESC LIMIT :limit;

-- turns_at: the turns whose prompts have these ids, given as a JSON list
SELECT q.turn_id, q.turn_seq, q.content AS prompt, q.body AS prompt_body, q.tool, q.created_at AS started_at,
       q.lease_until, q.digest, q.after_place, q.deferred, q.metadata,
       a.content AS answer, a.body AS answer_body, a.outcome, a.tokens, a.created_at AS ended_at
  FROM json_each(:ids) i JOIN chat_messages q ON q.id = i.value LEFT JOIN chat_messages a ON a.id = q.id + 1
 ORDER BY q.turn_seq;

-- prompts: the ids of some of one conversation's
SELECT id FROM chat_messages
 WHERE id > (:session_id << 32) | (:after << 1) | 1 AND id < (:session_id << 32) | ((:upto + 1) << 1) AND id & 1 = 0
 ORDER BY id LIMIT :limit;

-- forkable: a principal's conversation that can be read
SELECT id, last_place, expires_at FROM chat_sessions
 WHERE user_id = :user_id AND continuation_id = :continuation_id AND (expires_at IS NULL OR expires_at > :now);

-- add_fork: the new conversation
INSERT INTO chat_sessions (user_id, continuation_id, minted, last_place, created_at, updated_at, expires_at)
VALUES (:user_id, :new_id, :minted, :place, :now, :now, :expires_at);

-- tie_fork: to the one that has the turn at its place
INSERT INTO chat_forks (session_id, parent_id, place) VALUES (:session_id, :parent_id, :place);

-- name_files: the files of what is shared, so that versions go on, and their content stays
INSERT INTO chat_files (session_id, name, version, turn_id, user_id, bucket, key, sha256, size, media_type, created_at)
SELECT :session_id, f.name, f.version, f.turn_id, f.user_id, f.bucket, f.key, f.sha256, f.size, f.media_type, f.created_at
  FROM chat_files f JOIN chat_messages q ON q.turn_id = f.turn_id AND q.part = 0
 WHERE f.session_id = :from_id AND q.turn_seq <= :place;

-- parent: that of a fork
SELECT f.parent_id, substr(s.continuation_id, 1, 1) = char(31) AS is_gone
  FROM chat_forks f JOIN chat_sessions s ON s.id = f.parent_id WHERE f.session_id = :id;

-- needed: up to which place forks need a conversation's turns; 0 if not at all
SELECT coalesce(max(place), 0) AS place FROM chat_forks WHERE parent_id = :id;

-- cut: what forks do not need of it is gone
UPDATE chat_sessions SET last_place = :place WHERE id = :id;

-- drop_files: its own; forks have theirs
DELETE FROM chat_files WHERE session_id = :id;
