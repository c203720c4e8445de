-- make_words: of each message its words, and nothing more: the texts stay where they are
CREATE VIRTUAL TABLE words USING fts5(
    content, content = '', columnsize = 0, tokenize = "unicode61 remove_diacritics 0"
);

-- faster: 32 MB of memory, while words are added, for what would be written in many small pieces and merged again
INSERT INTO words (words, rank) VALUES ('hashsize', 33554432);

-- make_turns: what a search needs of a message before it reads it
CREATE TABLE turns (
    id           INTEGER PRIMARY KEY,  -- of its prompt, as in chat_messages; that of its answer is the next
    turn_id      TEXT NOT NULL,
    tool         TEXT NOT NULL,
    outcome      TEXT,
    at           TEXT NOT NULL,
    answered_at  TEXT
) STRICT;

-- make_unanswered: finds those whose answer was not there when they were indexed
CREATE INDEX unanswered ON turns (id) WHERE answered_at IS NULL;

-- make_conversations: up to which place each conversation is indexed, and the turn that stands there
CREATE TABLE conversations (session_id INTEGER PRIMARY KEY, place INTEGER NOT NULL, turn_id TEXT NOT NULL) STRICT;

-- is_stale: whether something that was indexed is not there any more, or is something else by now
SELECT EXISTS (
    SELECT 1 FROM conversations c
      LEFT JOIN kept.chat_messages m ON m.id = (c.session_id << 32) | (c.place << 1)
     WHERE m.turn_id IS NOT c.turn_id
);

-- has_news: whether anything is not indexed yet; what a fork shares is another conversation's
SELECT EXISTS (SELECT 1 FROM kept.chat_sessions s LEFT JOIN conversations c ON c.session_id = s.id
                WHERE s.last_place > coalesce(c.place, 0)
                  AND s.last_place > coalesce((SELECT place FROM kept.chat_forks k WHERE k.session_id = s.id), 0))
    OR EXISTS (SELECT 1 FROM turns t JOIN kept.chat_messages a ON a.id = t.id + 1 WHERE t.answered_at IS NULL);

-- make_batch: which turns are indexed now: of each conversation those after one place and up to another
CREATE TEMP TABLE batch (session_id INTEGER PRIMARY KEY, after INTEGER NOT NULL, upto INTEGER NOT NULL);

-- fill_batch: with at most so many that are not indexed yet
INSERT INTO batch (session_id, after, upto)
SELECT session_id, after, min(last_place, after + :turns - before)
  FROM (SELECT *, coalesce(sum(last_place - after) OVER earlier, 0) AS before
          FROM (SELECT s.id AS session_id, s.last_place, max(coalesce(c.place, 0), coalesce(k.place, 0)) AS after
                  FROM kept.chat_sessions s
                  LEFT JOIN conversations c ON c.session_id = s.id
                  LEFT JOIN kept.chat_forks k ON k.session_id = s.id)
         WHERE last_place > after
        WINDOW earlier AS (ORDER BY session_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
 WHERE before < :turns;

-- add_new_words: in ascending order, which costs an index of words far less than any other; so read, it needs no sorting
INSERT INTO words (rowid, content)
SELECT m.id, CASE WHEN length(CAST(m.content AS BLOB)) > :searched  -- its bytes, which need not be counted
                  THEN substr(m.content, 1, :searched) ELSE m.content END
  FROM batch b CROSS JOIN kept.chat_messages m
    ON m.id > (b.session_id << 32) | (b.after << 1) | 1 AND m.id <= (b.session_id << 32) | (b.upto << 1) | 1
 ORDER BY b.session_id, m.id;

-- add_new_turns: those that have these messages
INSERT INTO turns (id, turn_id, tool, outcome, at, answered_at)
SELECT q.id, q.turn_id, q.tool, a.outcome, q.created_at, a.created_at
  FROM batch b CROSS JOIN kept.chat_messages q
    ON q.id > (b.session_id << 32) | (b.after << 1) | 1 AND q.id <= (b.session_id << 32) | (b.upto << 1) | 1
   AND q.id & 1 = 0
  LEFT JOIN kept.chat_messages a ON a.id = q.id + 1;

-- note_places: after which all of these are known
INSERT INTO conversations (session_id, place, turn_id)
SELECT b.session_id, b.upto, q.turn_id
  FROM batch b CROSS JOIN kept.chat_messages q ON q.id = (b.session_id << 32) | (b.upto << 1)
 WHERE true
ON CONFLICT (session_id) DO UPDATE SET place = excluded.place, turn_id = excluded.turn_id;

-- add_late_words: of answers that came after their prompt was indexed
INSERT INTO words (rowid, content)
SELECT a.id, substr(a.content, 1, :searched)
  FROM turns t JOIN kept.chat_messages a ON a.id = t.id + 1
 WHERE t.answered_at IS NULL ORDER BY a.id;

-- note_late_outcomes: of the same turns
UPDATE turns SET outcome = a.outcome, answered_at = a.created_at
  FROM kept.chat_messages a WHERE a.id = turns.id + 1 AND turns.answered_at IS NULL;

-- found: messages, each once, under a conversation that one of `under_…` names
SELECT f.id, f.turn_id, f.tool, f.outcome, f.at, s.user_id, s.continuation_id

-- with_words: those that have them
  FROM (SELECT words.rowid AS id, t.turn_id, t.tool, t.outcome,
               CASE words.rowid & 1 WHEN 0 THEN t.at ELSE t.answered_at END AS at
          FROM words JOIN turns t ON t.id = words.rowid & ~1
         WHERE words MATCH :words) f

-- without_words: the prompts of all turns
  FROM turns f

-- under_any: its own; where that is gone, the fork of it that was used last
  LEFT JOIN kept.chat_sessions o ON o.id = f.id >> 32 AND (o.expires_at IS NULL OR o.expires_at > :now)
                                AND substr(o.continuation_id, 1, 1) <> char(31)
  JOIN kept.chat_sessions s ON s.id = coalesce(o.id, (
      WITH RECURSIVE reader (id) AS (
          SELECT session_id FROM kept.chat_forks WHERE parent_id = f.id >> 32 AND place >= (f.id & 4294967295) >> 1
          UNION ALL
          SELECT k.session_id FROM reader JOIN kept.chat_forks k ON k.parent_id = reader.id)
      SELECT x.id FROM reader JOIN kept.chat_sessions x ON x.id = reader.id
       WHERE (x.expires_at IS NULL OR x.expires_at > :now) AND substr(x.continuation_id, 1, 1) <> char(31)
       ORDER BY x.updated_at DESC, x.continuation_id DESC LIMIT 1))

-- under_one: one that has its turn, be it from what it was forked from
  JOIN (WITH RECURSIVE line (id, segment, upto) AS (
            SELECT id, id, 2147483646 FROM kept.chat_sessions WHERE continuation_id = :continuation_id
            UNION ALL
            SELECT line.id, k.parent_id, k.place FROM line JOIN kept.chat_forks k ON k.session_id = line.segment)
        SELECT id, segment, upto FROM line) l ON l.segment = f.id >> 32 AND (f.id & 4294967295) >> 1 <= l.upto
  JOIN kept.chat_sessions s ON s.id = l.id

-- asked_for: what else is asked of them; newest first
 WHERE (:principal IS NULL OR s.user_id = :principal)
   AND (:continuation_id IS NULL OR s.continuation_id = :continuation_id)
   AND (s.expires_at IS NULL OR s.expires_at > :now) AND substr(s.continuation_id, 1, 1) <> char(31)
   AND (:tool IS NULL OR f.tool = :tool)
   AND (:ended IS NULL OR f.outcome = :ended)
   AND (:lease IS NULL OR f.outcome IS NULL AND :lease = (
       SELECT CASE WHEN coalesce(q.lease_until, q.created_at) < :now THEN 'interrupted' ELSE 'running' END
         FROM kept.chat_messages q WHERE q.id = f.id & ~1))
   AND (:since IS NULL OR f.at >= :since) AND (:until IS NULL OR f.at < :until)
   AND (:before_at IS NULL OR (f.at, f.turn_id, f.id & 1) < (:before_at, :before_turn, :before_part))
 ORDER BY f.at DESC, f.turn_id DESC, f.id & 1 DESC
 LIMIT :limit;

-- message: what was found, to be shown, and how far its turn has come
SELECT m.content, CASE WHEN coalesce(q.lease_until, q.created_at) < :now THEN 'interrupted' ELSE 'running' END AS lease
  FROM kept.chat_messages m JOIN kept.chat_messages q ON q.id = m.id & ~1 WHERE m.id = :id;
