-- perdure 0011: the words of messages stand in a table of their own, and are made when somebody searches.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0011 needs 0010' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 10) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0011 needs 0010' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 11) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- At once as strongly as it is locked below: who had read the table and would write it now would wait in a ring with us.
lock table public.chat_messages in access exclusive mode;

create table public.chat_words (
  message_id  uuid         primary key references public.chat_messages (id) on delete cascade,
  turn_id     uuid         not null,              -- this and what follows as in the message: so that the newest are known
  created_at  timestamptz  not null,              -- before a message is looked at, and row security needs no join
  part        smallint     not null,
  user_id     text         collate "C" not null,
  words       tsvector     not null               -- of its first 100,000 characters
);
create index chat_words_words on public.chat_words using gin (words) with (gin_pending_list_limit = 512);

create table public.chat_words_due (
  message_id  uuid      not null,
  changed     boolean                          -- true: words that stand there already are of another text
);
-- It has no key, and nobody could take a row off it where somebody publishes all tables.
alter table public.chat_words_due replica identity full;

-- As for the other tables: estimates would tell letter by letter what is private.
alter table public.chat_words alter column message_id set statistics 0, alter column turn_id set statistics 0,
  alter column words set statistics 0;
alter table public.chat_words_due alter column message_id set statistics 0;

-- Each message, and each whose text, user or time somebody changes by hand, waits until its words are wanted.
create function public.chat_await_words() returns trigger
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $function$
begin
  if tg_op = 'UPDATE' then
    delete from public.chat_words w where w.message_id = new.id;
    insert into public.chat_words_due (message_id, changed) values (new.id, true);
  else
    insert into public.chat_words_due (message_id) values (new.id);
  end if;
  return null;
end $function$;

-- ── who may see which rows ───────────────────────────────────────────────────────────────────────────────────
alter table public.chat_words enable row level security;
alter table public.chat_words_due enable row level security;
alter table public.chat_words force row level security;
alter table public.chat_words_due force row level security;

create policy server on public.chat_words to current_user using (true) with check (true);
create policy server on public.chat_words_due to current_user using (true) with check (true);
create policy own on public.chat_words for select using (user_id = (select public.chat_subject()));
create policy own on public.chat_words_due for insert
  with check (changed is null  -- or a token could have the words of one message made again and again
              and exists (select from public.chat_messages m where m.id = message_id and m.user_id = (select public.chat_subject())));

do $grants$
declare api text;
begin
  revoke all on public.chat_words, public.chat_words_due from public;
  revoke all on function public.chat_await_words from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on public.chat_words, public.chat_words_due from %I', api);
    execute format('revoke all on function public.chat_await_words from %I', api);
    continue when api = 'anon';
    execute format('grant select on public.chat_words to %I', api);
    execute format('grant insert on public.chat_words_due to %I', api);
    continue when api = 'authenticated';
    execute format('grant insert, update (created_at, user_id, words) on public.chat_words to %I', api);
    execute format('grant select, delete on public.chat_words_due to %I', api);
  end loop;
end $grants$;

comment on table public.chat_words is 'perdure: the words of messages, for search. Made by keep_words when somebody searches.';
comment on table public.chat_words_due is 'perdure: messages whose words are not in chat_words yet.';

-- ── from the column to the table ─────────────────────────────────────────────────────────────────────────────
alter table public.chat_messages drop column words;  -- and its index; rows keep the space until they are written anew
insert into public.chat_words_due (message_id) select m.id from public.chat_messages m;
create trigger chat_messages_await_words after insert or update of content, user_id, created_at on public.chat_messages
  for each row execute function public.chat_await_words();

-- Make the words of up to max_messages that wait, fewer where they are long. Returns whether some are left, and after which
-- place of the queue to go on. only_if_wanted: nothing unless somebody has searched before, or while somebody else makes them.
create function public.keep_words(
  max_messages integer default 1000, after text default '(0,0)', only_if_wanted boolean default false
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms'
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $function$
#variable_conflict use_column
declare
  ours constant bigint := 7305437215021183093;
  places tid[];
  without_words uuid[];
  skipped uuid[];
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may keep words' using errcode = 'insufficient_privilege';
  end if;
  if current_setting('transaction_read_only')::boolean then  -- as in a replica
    return json_build_object('left', false, 'after', keep_words.after);
  end if;
  if keep_words.only_if_wanted then
    if not exists (select from public.chat_words) then
      return json_build_object('left', false, 'after', keep_words.after);
    elsif not pg_try_advisory_xact_lock(ours) then
      return json_build_object('left', false, 'after', keep_words.after);
    end if;
    perform set_config('lock_timeout', '100ms', true);  -- nor while somebody works on the tables
  else
    begin
      perform pg_advisory_xact_lock(ours);  -- whoever searches meanwhile waits for these, and takes the next
    exception when lock_not_available then  -- many do
      return json_build_object('left', true, 'after', keep_words.after);
    end;
  end if;
  select array_agg(t.place order by t.place), array_agg(t.message_id) filter (where t.lacks_words) into places, without_words
    from (select d.place, d.message_id, d.lacks_words,
                 sum(case when d.lacks_words then least(octet_length(m.content), 100000) end)
                   over (order by d.place rows between unbounded preceding and 1 preceding) as bytes_before
            from (select x.place, x.message_id, x.changed is true or w.message_id is null as lacks_words
                    from (select y.ctid as place, y.message_id, y.changed from public.chat_words_due y
                           where y.ctid > keep_words.after::tid limit keep_words.max_messages) x
                    left join public.chat_words w on w.message_id = x.message_id) d
            left join public.chat_messages m on m.id = d.message_id) t
   where coalesce(t.bytes_before, 0) < 1000000;
  -- Nobody is waited for who removes a message: its words can wait. Who changes one has not hidden its old text from us yet,
  -- so these words may be there when the new ones are due.
  with kept as (
    insert into public.chat_words (message_id, turn_id, created_at, part, user_id, words)
      select m.id, m.turn_id, m.created_at, m.part, m.user_id, to_tsvector('simple', left(m.content, 100000)) from public.chat_messages m
       where m.id = any (without_words) for key share skip locked
      on conflict (message_id) do update set created_at = excluded.created_at, user_id = excluded.user_id, words = excluded.words
      returning message_id
  )
  select coalesce(array_agg(t.id), '{}') into skipped from unnest(without_words) as t (id)
   where t.id not in (select k.message_id from kept k);
  delete from public.chat_words_due d
   where d.ctid = any (places)
     and (d.message_id <> all (skipped) or not exists (select from public.chat_messages m where m.id = d.message_id));
  return json_build_object(
    'left', exists (select from public.chat_words_due x where x.ctid > places[cardinality(places)]),
    'after', coalesce(places[cardinality(places)], keep_words.after::tid));
end $function$;

-- The messages of that user, or of all, that have the words asked for, each once. For a server those whose words are kept, by the
-- index, and those that still wait, one by one; for any other caller all of its own, one by one: row security keeps it from the
-- index. Messages are looked up by "limit 1" or "offset 0", here and by who calls this: left to choose, the planner reads all
-- messages through, makes the words of all to find those of the few that wait, or calls this for each of them.
create function public.chat_found(wanted tsquery, principal text)
returns table (message_id uuid, created_at timestamptz, turn_id uuid, part smallint)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
begin
  if public.chat_trusted() then
    return query select w.message_id, w.created_at, w.turn_id, w.part from public.chat_words w
                  where w.words @@ chat_found.wanted and (chat_found.principal is null or w.user_id = chat_found.principal);
    return query select m.id, m.created_at, m.turn_id, m.part
                   from (select distinct x.message_id from public.chat_words_due x) d
                  cross join lateral (select x.* from public.chat_messages x
                                       where x.id = d.message_id
                                         and (chat_found.principal is null or x.user_id = chat_found.principal) limit 1) m
                   left join lateral (select x.words from public.chat_words x where x.message_id = m.id limit 1) w on true
                  where to_tsvector('simple', left(m.content, 100000)) @@ chat_found.wanted
                    and (w.words @@ chat_found.wanted) is not true;
  else
    return query select m.id, m.created_at, m.turn_id, m.part from public.chat_sessions s
                  cross join lateral (select x.* from public.chat_messages x
                                       where x.session_id = s.id and x.user_id = chat_found.principal offset 0) m
                   left join lateral (select x.words from public.chat_words x where x.message_id = m.id limit 1) w on true
                  where s.user_id = chat_found.principal
                    and coalesce(w.words, to_tsvector('simple', left(m.content, 100000))) @@ chat_found.wanted;
  end if;
end $function$;

-- Messages that answer a question, newest first, from the one after (before_at, before_turn, before_part). words: a tsquery
-- as text; null: any message, of each turn its prompt. user_id null: everybody's for a trusted caller, the token's own for
-- any other. What was found stands in the excerpt between U+E000 and U+E001. Each message is found once: under continuation_id, if
-- that is given and has it, be it from what it was forked from; else under its own conversation; where that is gone, under the
-- fork of it that was used last.
drop function public.find_messages;
create function public.find_messages(
  user_id text default null, words text default null, continuation_id text default null, tool text default null,
  outcome text default null, since timestamptz default null, until timestamptz default null,
  before_at timestamptz default null, before_turn uuid default null, before_part integer default null,
  max_hits integer default 20, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  principal constant text := case when find_messages.user_id is null and public.chat_trusted() then null
                                  else public.chat_principal(find_messages.user_id) end;
  moment constant timestamptz := coalesce(find_messages.at, clock_timestamp());
  asked constant tsquery := to_tsquery('simple', find_messages.words);
  narrowed text := 'true';
  shown text := 'public.chat_messages m
              cross join lateral (select m.created_at, m.turn_id, m.part) f
               left join public.chat_sessions o on o.id = m.session_id
                and (o.expires_at is null or o.expires_at > $3) and o.continuation_id not like chr(31) || ''%''
               join public.chat_sessions s on s.id = coalesce(o.id, public.chat_heir(m.session_id, m.turn_seq, $3))';
  hits json;
begin
  -- Put together, so that each way to ask has its own plan and index. Only these fixed words ever go into the text.
  if find_messages.words is not null then  -- of what was found the newest are looked at, until there are enough
    shown := '(select x.* from public.chat_found($2, $1) x order by x.created_at desc, x.turn_id desc, x.part desc) f
              cross join lateral (select x.* from public.chat_messages x where x.id = f.message_id limit 1) m
               left join public.chat_sessions o on o.id = m.session_id
                and (o.expires_at is null or o.expires_at > $3) and o.continuation_id not like chr(31) || ''%''
               join public.chat_sessions s on s.id = coalesce(o.id, public.chat_heir(m.session_id, m.turn_seq, $3))';
  end if;
  if find_messages.continuation_id is not null then
    shown := '(select x.* from public.chat_sessions x where x.continuation_id = $4 offset 0) s
              cross join lateral public.chat_line(s.id) l
              cross join lateral (select x.* from public.chat_messages x
                                   where x.session_id = l.segment and x.turn_seq <= l.upto offset 0) m
              cross join lateral (select m.created_at, m.turn_id, m.part) f';
    if find_messages.words is not null then
      narrowed := narrowed || ' and coalesce((select w.words from public.chat_words w where w.message_id = m.id),
                                             to_tsvector(''simple'', left(m.content, 100000))) @@ $2';
    end if;
  end if;
  if principal is not null then narrowed := narrowed || ' and m.user_id = $1 and s.user_id = $1'; end if;
  if find_messages.words is null then narrowed := narrowed || ' and m.part = 0'; end if;
  if find_messages.before_at is not null then narrowed := narrowed || ' and (f.created_at, f.turn_id, f.part) < ($9, $10, $11)'; end if;
  execute
    'select json_agg(json_build_object(
              ''user_id'', h.user_id, ''continuation_id'', h.continuation_id, ''turn_id'', h.turn_id, ''place'', h.turn_seq,
              ''part'', h.part, ''tool'', h.tool, ''outcome'', h.ended, ''created_at'', h.created_at,
              ''excerpt'', case when $2 is null then left(h.content, 200)
                              else ts_headline(''simple'', left(h.content, 100000), $2,
                                ''MaxFragments=1, MaxWords=30, MinWords=10, ShortWord=0, StartSel='' || chr(57344) || '', StopSel='' || chr(57345)) end)
              order by h.created_at desc, h.turn_id desc, h.part desc)
       from (select m.user_id, s.continuation_id, m.turn_id, m.turn_seq, m.part, q.tool, e.ended, m.created_at, m.content
               from ' || shown || '
               join public.chat_messages q on q.session_id = m.session_id and q.turn_seq = m.turn_seq and q.part = 0
               left join public.chat_messages a on a.session_id = m.session_id and a.turn_seq = m.turn_seq and a.part = 1
              cross join lateral (select coalesce(a.outcome, case when coalesce(q.lease_until, q.created_at) < $3
                                                            then ''interrupted'' else ''running'' end) as ended) e
              where ' || narrowed || '
                and (s.expires_at is null or s.expires_at > $3) and s.continuation_id not like chr(31) || ''%''
                and ($4 is null or s.continuation_id = $4) and ($5 is null or q.tool = $5) and ($6 is null or e.ended = $6)
                and ($7 is null or f.created_at >= $7) and ($8 is null or f.created_at < $8)
              order by f.created_at desc, f.turn_id desc, f.part desc limit $12) h'
    into hits
    using principal, asked, moment, find_messages.continuation_id, find_messages.tool, find_messages.outcome,
          find_messages.since, find_messages.until, find_messages.before_at, find_messages.before_turn,
          find_messages.before_part, find_messages.max_hits;
  return json_build_object('hits', coalesce(hits, '[]'::json));
end $function$;

-- Messages that hold the words asked for ("a phrase", or, -not), newest first. Only a message's first 100,000 characters
-- are searched, and only the question's first 2,000 count.
drop function public.search_messages;
create function public.search_messages(
  user_id text, query text, tool text default null, outcome text default null, since timestamptz default null,
  until timestamptz default null, max_hits integer default 20, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(search_messages.user_id);
  moment constant timestamptz := coalesce(search_messages.at, clock_timestamp());
  question constant text := left(search_messages.query, 2000);
  asked tsquery;
  hits json;
begin
  begin
    asked := websearch_to_tsquery('simple', question);
  exception when internal_error or program_limit_exceeded or statement_too_complex then
    asked := plainto_tsquery('simple', question);  -- 33 hyphens in a row are too many for the other one
  end;
  select json_agg(h order by h.created_at desc, h.turn_id desc, h.part desc) into hits
    from (select s.continuation_id, m.turn_id, m.turn_seq as place, m.part, m.role, q.tool, a.outcome, m.created_at,
                 ts_headline('simple', left(m.content, 100000), asked,
                                        'MaxFragments=1, MaxWords=30, MinWords=10, ShortWord=0, StartSel=«, StopSel=»') as excerpt
            from (select x.* from public.chat_found(asked, principal) x
                   order by x.created_at desc, x.turn_id desc, x.part desc) f  -- the newest are looked at, until there are enough
           cross join lateral (select x.* from public.chat_messages x where x.id = f.message_id limit 1) m
            join public.chat_sessions s on s.id = m.session_id
           cross join lateral (select x.tool from public.chat_messages x
                                where x.session_id = m.session_id and x.turn_seq = m.turn_seq and x.part = 0 limit 1) q
            left join lateral (select x.outcome from public.chat_messages x
                                where x.session_id = m.session_id and x.turn_seq = m.turn_seq and x.part = 1 limit 1) a on true
           where m.user_id = principal and s.user_id = principal
             and (s.expires_at is null or s.expires_at > moment)
             and (search_messages.tool is null or q.tool = search_messages.tool)
             and (search_messages.outcome is null or a.outcome = search_messages.outcome)
             and f.created_at >= coalesce(search_messages.since, '-infinity')
             and f.created_at < coalesce(search_messages.until, 'infinity')
           order by f.created_at desc, f.turn_id desc, f.part desc limit search_messages.max_hits) h;
  return json_build_object('hits', coalesce(hits, '[]'::json));
end $function$;

do $grants$
declare
  api text;
  functions constant text := 'public.chat_found, public.find_messages, public.search_messages';
begin
  execute 'revoke all on function ' || functions || ', public.keep_words from public';
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function %s, public.keep_words from %I', functions, api);
    continue when api = 'anon';
    execute format('grant execute on function %s to %I', functions, api);
    continue when api = 'authenticated';
    execute format('grant execute on function public.keep_words to %I', api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (11, 'words', '7ce4afb62ef017b2ca4cc34c2fcc265e6b49cf9ee84f7ff6c994aa72781346dc');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
