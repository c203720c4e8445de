-- expired: those that expired first
SELECT id FROM chat_sessions s
 WHERE expires_at <= :now
   AND NOT (substr(continuation_id, 1, 1) = char(31)  -- only its forks need it, and no more than they need is left
            AND last_place <= (SELECT coalesce(max(place), -1) FROM chat_forks f WHERE f.parent_id = s.id))
 ORDER BY expires_at, id LIMIT :limit;

-- owned: a principal's, whatever their state; forks before what they came from
SELECT id FROM chat_sessions s
 WHERE user_id = :user_id
   AND NOT (substr(continuation_id, 1, 1) = char(31)
            AND last_place <= (SELECT coalesce(max(place), -1) FROM chat_forks f WHERE f.parent_id = s.id))
 ORDER BY EXISTS (SELECT 1 FROM chat_forks f WHERE f.parent_id = s.id), id LIMIT :limit;

-- named: a conversation that can be read
SELECT id FROM chat_sessions
 WHERE user_id = :user_id AND continuation_id = :continuation_id AND (expires_at IS NULL OR expires_at > :now);

-- end_now: from now on it is as if it had never been, and its name is free
UPDATE chat_sessions SET continuation_id = char(31) || id, expires_at = min(coalesce(expires_at, :now), :now)
 WHERE id = :id AND (:user_id IS NULL OR user_id = :user_id)
   AND (:continuation_id IS NULL OR continuation_id = :continuation_id)
   AND (:user_id IS NOT NULL OR expires_at <= :now);

-- remove_messages: some of a conversation's after a place, which has ended: another may have its number by now
DELETE FROM chat_messages
 WHERE id IN (SELECT id FROM chat_messages
               WHERE id > (:id << 32) | (:after << 1) | 1 AND id < (:id + 1) << 32 ORDER BY id LIMIT :limit)
   AND EXISTS (SELECT 1 FROM chat_sessions WHERE id = :id AND substr(continuation_id, 1, 1) = char(31));

-- only_named_by: the files that no other conversation names than these, given as a JSON list
SELECT DISTINCT f.bucket, f.key, EXISTS (
           SELECT 1 FROM chat_files o  -- the same tenant and hash: "0" comes after "/"
            WHERE o.key >= rtrim(f.key, replace(f.key, '/', '')) AND o.bucket = f.bucket
              AND o.key < rtrim(rtrim(f.key, replace(f.key, '/', '')), '/') || '0'
              AND o.session_id NOT IN (SELECT value FROM json_each(:ids))) AS shared
  FROM chat_files f
 WHERE f.session_id IN (SELECT value FROM json_each(:ids))
   AND NOT EXISTS (SELECT 1 FROM chat_files o WHERE o.key = f.key AND o.bucket = f.bucket
                      AND o.session_id NOT IN (SELECT value FROM json_each(:ids)))
 ORDER BY f.bucket, f.key;

-- turns_of: how many turns these have that no fork needs
SELECT count(*) AS conversations,
       coalesce(sum(last_place - max(coalesce((SELECT place FROM chat_forks f WHERE f.session_id = s.id), 0),
                                     coalesce((SELECT max(place) FROM chat_forks f WHERE f.parent_id = s.id), 0))), 0)
       AS turns
  FROM chat_sessions s WHERE id IN (SELECT value FROM json_each(:ids));

-- remove_session: first of all, where no foreign key is looked up; no fork needs it
DELETE FROM chat_sessions
 WHERE id = :id AND substr(continuation_id, 1, 1) = char(31)
   AND NOT EXISTS (SELECT 1 FROM chat_forks WHERE parent_id = :id);

-- remove_messages_left: of a conversation that is removed; by their keys, since no index has all of them by conversation
DELETE FROM chat_messages WHERE id > :id << 32 AND id < (:id + 1) << 32;

-- remove_files: of a conversation that is removed
DELETE FROM chat_files WHERE session_id = :id;

-- remove_fork: where a conversation that is removed came from
DELETE FROM chat_forks WHERE session_id = :id;

-- count_conversations: what can be read, and what only waits to be removed
SELECT count(DISTINCT user_id) FILTER (WHERE living) AS users, count(*) FILTER (WHERE living) AS conversations,
       count(*) FILTER (WHERE NOT living AND NOT needed) AS expired,
       min(created_at) FILTER (WHERE living) AS oldest, max(updated_at) FILTER (WHERE living) AS newest
  FROM (SELECT *, expires_at IS NULL OR expires_at > :now AS living,
               substr(continuation_id, 1, 1) = char(31)
               AND last_place <= (SELECT coalesce(max(place), -1) FROM chat_forks f WHERE f.parent_id = s.id) AS needed
          FROM chat_sessions s
         WHERE :user_id IS NULL OR user_id = :user_id);

-- count_outcomes: how the turns of living conversations ended
SELECT coalesce(a.outcome, CASE WHEN coalesce(q.lease_until, q.created_at) < :now THEN 'interrupted' ELSE 'running' END)
       AS outcome, count(*) AS turns
  FROM chat_sessions s
  JOIN chat_messages q ON q.id > s.id << 32 AND q.id < (s.id + 1) << 32 AND q.id & 1 = 0
  LEFT JOIN chat_messages a ON a.id = q.id + 1
 WHERE (:user_id IS NULL OR s.user_id = :user_id) AND (s.expires_at IS NULL OR s.expires_at > :now)
 GROUP BY 1 ORDER BY 2 DESC, 1;

-- count_files: each content once
SELECT count(*) AS files, coalesce(sum(size), 0) AS bytes
  FROM (SELECT DISTINCT f.bucket, f.key, f.size FROM chat_files f JOIN chat_sessions s ON s.id = f.session_id
         WHERE (:user_id IS NULL OR f.user_id = :user_id) AND (s.expires_at IS NULL OR s.expires_at > :now));
