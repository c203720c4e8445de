-- find_turn: where a turn stands, by its id (?1); without the conversation's name if another has it by now
SELECT s.id, s.user_id, CASE WHEN substr(s.continuation_id, 1, 1) <> char(31) THEN s.continuation_id END AS continuation_id,
       s.expires_at, m.turn_seq, m.digest,
       (SELECT outcome FROM chat_messages a WHERE a.id = m.id + 1) AS outcome,
       EXISTS (SELECT 1 FROM chat_forks f WHERE f.session_id = s.id) AS forked
  FROM chat_messages m JOIN chat_sessions s ON s.id = m.session_id
 WHERE m.turn_id = ?1 AND m.part = 0;

-- find_session: a principal's conversation that has not expired; one that a client named only where it may
SELECT id, last_place, continuation_id, minted, expires_at,
       EXISTS (SELECT 1 FROM chat_forks f WHERE f.session_id = chat_sessions.id) AS forked
  FROM chat_sessions
 WHERE user_id = :user_id AND continuation_id = :continuation_id AND (:adopt OR minted)
   AND (expires_at IS NULL OR expires_at > :now);

-- set_aside: a conversation that has expired gives its name to the one that is made now. No client's id has a control character
UPDATE chat_sessions SET continuation_id = char(31) || id
 WHERE user_id = :user_id AND continuation_id = :continuation_id AND expires_at <= :now;

-- add_session: a new conversation
INSERT INTO chat_sessions (user_id, continuation_id, minted, created_at, updated_at)
VALUES (:user_id, :continuation_id, :minted, :now, :now);

-- take_place: ?2, the next place in the conversation ?1, at the time ?3; the turn may give it a new end (?4)
UPDATE chat_sessions
   SET last_place = ?2, updated_at = max(updated_at, ?3), expires_at = coalesce(?4, expires_at)
 WHERE id = ?1;

-- add_prompt: part 0 of a turn (?3) with its key (?1) in a conversation (?2), unless there is a turn with this id
INSERT INTO chat_messages (id, session_id, turn_id, turn_seq, part, role, content, body, tool, digest, after_place,
                           deferred, lease_until, created_at, metadata)
VALUES (?1, ?2, ?3, ?4, 0, 'user', ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
ON CONFLICT (turn_id) WHERE part = 0 DO NOTHING;

-- add_answer: part 1 of a turn (?2), unless there is one; refused if part 0 with this digest (?3) has not the key ?1
INSERT INTO chat_messages (id, session_id, turn_id, turn_seq, part, role, content, body, outcome, tokens, created_at)
VALUES (?1 | 1, (SELECT session_id FROM chat_messages WHERE id = ?1 AND turn_id = ?2 AND digest = ?3),
        ?2, ?4, 1, 'assistant', ?5, ?6, ?7, ?8, ?9)
ON CONFLICT (id) DO NOTHING;

-- renew_turn: the lease of a principal's turn that has no answer, never to an earlier time
UPDATE chat_messages SET lease_until = :lease_until
 WHERE turn_id = :turn_id AND part = 0 AND lease_until < :lease_until
   AND EXISTS (SELECT 1 FROM chat_sessions s WHERE s.id = chat_messages.session_id AND s.user_id = :user_id)
   AND NOT EXISTS (SELECT 1 FROM chat_messages a WHERE a.id = chat_messages.id + 1);

-- window: the places of the newest answered turns before a place, newest first; all from the index
SELECT turn_seq, tokens FROM chat_messages
 WHERE session_id = :session_id AND part = 1 AND outcome = 'answered' AND turn_seq < :place
 ORDER BY turn_seq DESC LIMIT :turns;

-- turns_between: the whole answered turns from one place to another; none if another conversation has the number by now
SELECT q.turn_id, q.turn_seq, q.content AS prompt, q.body AS prompt_body, q.tool, q.created_at AS started_at,
       q.lease_until, q.digest, q.after_place, q.deferred, q.metadata,
       a.content AS answer, a.body AS answer_body, a.outcome, a.tokens, a.created_at AS ended_at
  FROM chat_messages q JOIN chat_messages a ON a.id = q.id + 1 JOIN chat_sessions s ON s.id = q.session_id
 WHERE q.id BETWEEN (:session_id << 32) | (:first << 1) AND (:session_id << 32) | (:last << 1) AND q.id & 1 = 0
   AND a.outcome = 'answered'
   AND s.user_id = :user_id AND (s.continuation_id = :continuation_id OR substr(s.continuation_id, 1, 1) = char(31));

-- read_turns: a page of one conversation's turns, by place
SELECT q.turn_id, q.turn_seq, q.content AS prompt, q.body AS prompt_body, q.tool, q.created_at AS started_at,
       q.lease_until, q.digest, q.after_place, q.deferred, q.metadata,
       a.content AS answer, a.body AS answer_body, a.outcome, a.tokens, a.created_at AS ended_at
  FROM chat_sessions s
  JOIN chat_messages q ON q.id > (s.id << 32) | (:after << 1) | 1 AND q.id < (s.id + 1) << 32 AND q.part = 0
  LEFT JOIN chat_messages a ON a.id = q.id + 1
 WHERE s.user_id = :user_id AND s.continuation_id = :continuation_id
   AND (s.expires_at IS NULL OR s.expires_at > :now)
 ORDER BY q.id LIMIT :limit;

-- list_conversations: newest first, from the one after the last seen
SELECT user_id, continuation_id, last_place, created_at, updated_at, minted, expires_at
  FROM chat_sessions
 WHERE (:user_id IS NULL OR user_id = :user_id)
   AND (:continuation_id IS NULL OR continuation_id = :continuation_id)
   AND (expires_at IS NULL OR expires_at > :now) AND substr(continuation_id, 1, 1) <> char(31)
   AND (:before_at IS NULL OR (updated_at, user_id, continuation_id) < (:before_at, :before_user, :before_id))
 ORDER BY updated_at DESC, user_id DESC, continuation_id DESC
 LIMIT :limit;

-- newest_version: of a logical name in a conversation
SELECT version, sha256 FROM chat_files
 WHERE session_id = :session_id AND name = :name ORDER BY version DESC LIMIT 1;

-- add_file: a version of a file, given out by a turn
INSERT INTO chat_files (session_id, name, version, turn_id, user_id, bucket, key, sha256, size, media_type, created_at)
VALUES (:session_id, :name, :version, :turn_id, :user_id, :bucket, :key, :sha256, :size, :media_type, :created_at)
ON CONFLICT DO NOTHING;

-- files_of_turn: what a finished turn gave out, under the name that its caller knows the conversation by
SELECT f.*, :continuation_id AS continuation_id FROM chat_files f
 WHERE f.turn_id = :turn_id AND f.session_id = :session_id ORDER BY f.name, f.version;

-- find_file: a principal's file by its key
SELECT f.*, s.continuation_id FROM chat_files f JOIN chat_sessions s ON s.id = f.session_id
 WHERE f.user_id = :user_id AND f.key = :key AND (s.expires_at IS NULL OR s.expires_at > :now) ORDER BY f.created_at DESC LIMIT 1;

-- list_files: a principal's files, newest first
SELECT f.*, s.continuation_id FROM chat_files f JOIN chat_sessions s ON s.id = f.session_id
 WHERE f.user_id = :user_id AND s.user_id = :user_id
   AND (:continuation_id IS NULL OR s.continuation_id = :continuation_id)
   AND (:name IS NULL OR f.name = :name)
   AND (s.expires_at IS NULL OR s.expires_at > :now)
 ORDER BY f.created_at DESC, f.name, f.version DESC LIMIT :limit;
