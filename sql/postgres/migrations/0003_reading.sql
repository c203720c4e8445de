-- perdure 0003: reading what is kept, searching it, and letting go of what has expired.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0003 needs 0002' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 2) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0003 needs 0002' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 3) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- A page of a conversation's turns, by place. Unknown, expired and somebody else's look the same: no turns. Every answer is
-- an object, so that an empty body, which a broken gateway sends with status 200, is none.
create function public.read_turns(
  user_id text, continuation_id text, after_place bigint default 0, max_turns integer default 100, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(read_turns.user_id);
  session uuid;
  places bigint[];
begin
  select x.id into session from public.chat_sessions x
   where x.continuation_id = read_turns.continuation_id and x.user_id = principal
     and (x.expires_at is null or x.expires_at > coalesce(read_turns.at, clock_timestamp()));
  select array_agg(p.turn_seq) into places
    from (select q.turn_seq from public.chat_messages q
           where q.session_id = session and q.part = 0 and q.turn_seq > read_turns.after_place
           order by q.turn_seq limit read_turns.max_turns) p;
  return json_build_object(
    'turns', case when places is null then '[]'::json else public.chat_turns(principal, session, places) end);
end $function$;

-- Conversations, newest first, from the one after (before_at, before_user, before_id). user_id null: everybody's for a
-- trusted caller, the token's own for any other.
create function public.list_conversations(
  user_id text default null, continuation_id text default null, before_at timestamptz default null,
  before_user text default null, before_id text default null, max_lines integer default 100, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  principal constant text := case when list_conversations.user_id is null and public.chat_trusted() then null
                                  else public.chat_principal(list_conversations.user_id) end;
  moment constant timestamptz := coalesce(list_conversations.at, clock_timestamp());
  first constant timestamptz := coalesce(list_conversations.before_at, 'infinity');
  lines json;
begin
  -- A statement for each way to ask, so that each has its own index.
  if list_conversations.continuation_id is not null then
    select json_agg(l order by l.updated_at desc, l.user_id desc, l.continuation_id desc) into lines
      from (select x.user_id, x.continuation_id, x.last_place, x.created_at, x.updated_at, x.minted from public.chat_sessions x
             where x.continuation_id = list_conversations.continuation_id
               and (principal is null or x.user_id = principal)
               and x.last_place > 0 and (x.expires_at is null or x.expires_at > moment)
               and (list_conversations.before_at is null or (x.updated_at, x.user_id collate "C", x.continuation_id collate "C")
                    < (first, list_conversations.before_user, list_conversations.before_id))
             order by x.updated_at desc, x.user_id desc, x.continuation_id desc limit list_conversations.max_lines) l;
  elsif principal is not null then
    select json_agg(l order by l.updated_at desc, l.user_id desc, l.continuation_id desc) into lines
      from (select x.user_id, x.continuation_id, x.last_place, x.created_at, x.updated_at, x.minted from public.chat_sessions x
             where x.user_id = principal and x.updated_at <= first
               and x.continuation_id not like chr(31) || '%'
               and x.last_place > 0 and (x.expires_at is null or x.expires_at > moment)
               and (list_conversations.before_at is null or (x.updated_at, x.user_id collate "C", x.continuation_id collate "C")
                    < (first, list_conversations.before_user, list_conversations.before_id))
             order by x.updated_at desc, x.continuation_id desc limit list_conversations.max_lines) l;
  else
    select json_agg(l order by l.updated_at desc, l.user_id desc, l.continuation_id desc) into lines
      from (select x.user_id, x.continuation_id, x.last_place, x.created_at, x.updated_at, x.minted from public.chat_sessions x
             where x.updated_at <= first
               and x.continuation_id not like chr(31) || '%'
               and x.last_place > 0 and (x.expires_at is null or x.expires_at > moment)
               and (list_conversations.before_at is null or (x.updated_at, x.user_id collate "C", x.continuation_id collate "C")
                    < (first, list_conversations.before_user, list_conversations.before_id))
             order by x.updated_at desc, x.user_id desc, x.continuation_id desc limit list_conversations.max_lines) l;
  end if;
  return json_build_object('conversations', coalesce(lines, '[]'::json));
end $function$;

-- A principal's files, newest first: all, of one conversation, under one logical name, or (one line) under one key.
create function public.list_files(
  user_id text, continuation_id text default null, name text default null, key text default null,
  max_lines integer default 1000, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set enable_seqscan = off as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(list_files.user_id);
  moment constant timestamptz := coalesce(list_files.at, clock_timestamp());
  session uuid;
  narrowed text := 'f.user_id = $1';
  lines json;
begin
  -- Put together, so that each way to ask has its own plan and index. Only these fixed words ever go into the text.
  if list_files.key is not null then narrowed := narrowed || ' and f.key = $3'; end if;
  if list_files.name is not null then narrowed := narrowed || ' and f.name = $4'; end if;
  if list_files.continuation_id is not null then
    narrowed := replace(narrowed, 'f.user_id = $1', 'f.session_id = $5');  -- which is the principal's, as s says
    select x.id into session from public.chat_sessions x
     where x.continuation_id = list_files.continuation_id and x.user_id = principal;
  end if;
  execute
    'select json_agg(l order by l.created_at desc, l.name, l.version desc)
       from (select f.turn_id, f.name, f.version, f.bucket, f.key, f.sha256, f.size, f.media_type, f.created_at,
                    s.continuation_id
               from public.chat_files f
              cross join lateral (select x.continuation_id from public.chat_sessions x
                                   where x.id = f.session_id and x.user_id = $1
                                     and (x.expires_at is null or x.expires_at > $2) limit 1) s
              where ' || narrowed ||
    '         order by f.created_at desc, f.name, f.version desc limit $6) l'
    into lines
    using principal, moment, list_files.key, list_files.name, session, list_files.max_lines;
  return json_build_object('files', coalesce(lines, '[]'::json));
end $function$;

-- Messages that hold the words asked for ("a phrase", or, -not), newest first. Only a message's first 100,000 characters
-- are searched, and only the question's first 2,000 count.
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
            from public.chat_messages m
            join public.chat_sessions s on s.id = m.session_id
            join public.chat_messages q on q.session_id = m.session_id and q.turn_seq = m.turn_seq and q.part = 0
            left join public.chat_messages a on a.session_id = m.session_id and a.turn_seq = m.turn_seq and a.part = 1
           where m.words @@ asked and m.user_id = principal and s.user_id = principal
             and (s.expires_at is null or s.expires_at > moment)
             and (search_messages.tool is null or q.tool = search_messages.tool)
             and (search_messages.outcome is null or a.outcome = search_messages.outcome)
             and m.created_at >= coalesce(search_messages.since, '-infinity')
             and m.created_at < coalesce(search_messages.until, 'infinity')
           order by m.created_at desc, m.turn_id desc, m.part desc limit search_messages.max_hits) h;
  return json_build_object('hits', coalesce(hits, '[]'::json));
end $function$;

-- Delete up to max_conversations that have expired, with their messages and files; those that somebody works on are left
-- for the next time. Returns how many, and the keys of files that no turn names any more: their bytes may go.
create function public.purge_expired(max_conversations integer default 100, at timestamptz default null) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' set enable_seqscan = off as $function$
#variable_conflict use_column
declare
  moment constant timestamptz := coalesce(purge_expired.at, clock_timestamp());
  gone uuid[];
  named json;
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may purge' using errcode = 'insufficient_privilege';
  end if;
  select array_agg(e.id) into gone
    from (select x.id from public.chat_sessions x where x.expires_at <= moment
           order by x.expires_at limit purge_expired.max_conversations for update skip locked) e;
  select json_agg(f) into named
    from (select distinct x.bucket, x.key from public.chat_files x
           where x.session_id = any (gone) and split_part(x.key, '/', 1) = public.chat_tenant(x.user_id)
             and not exists (select from public.chat_files o
                              where o.bucket = x.bucket and o.key = x.key
                                and o.session_id <> all (gone))) f;
  delete from public.chat_sessions x where x.id = any (gone);
  return json_build_object('conversations', coalesce(cardinality(gone), 0),
                                      'files', coalesce(named, '[]'::json));
end $function$;

-- Delete one conversation with its messages and files. Returns whether there was one, and the keys of files that no turn
-- names any more.
create function public.delete_conversation(user_id text, continuation_id text) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' set enable_seqscan = off as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(delete_conversation.user_id);
  gone uuid;
  named json;
begin
  select x.id into gone from public.chat_sessions x
   where x.continuation_id = delete_conversation.continuation_id and x.user_id = principal for update;
  select json_agg(f) into named
    from (select distinct x.bucket, x.key from public.chat_files x
           where x.session_id = gone and split_part(x.key, '/', 1) = public.chat_tenant(x.user_id)
             and not exists (select from public.chat_files o
                              where o.bucket = x.bucket and o.key = x.key
                                and o.session_id <> gone)) f;
  delete from public.chat_sessions x where x.id = gone;
  return json_build_object('deleted', found, 'files', coalesce(named, '[]'::json));
end $function$;

-- What `perdure doctor` asks: the schema's version, whether row security holds, the time; and the bytes of all files, in
-- that bucket of Supabase Storage if there is one, else of those that turns name.
create function public.store_status(bucket text default null) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
declare bytes bigint;
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may ask' using errcode = 'insufficient_privilege';
  end if;
  if store_status.bucket is not null and to_regclass('storage.objects') is not null then
    execute 'select coalesce(sum((o.metadata ->> ''size'')::bigint), 0) from storage.objects o where o.bucket_id = $1'
      into bytes using store_status.bucket;
  else
    select coalesce(sum(f.size), 0) into bytes from (select distinct x.key, x.size from public.chat_files x) f;
  end if;
  return json_build_object(
    'schema_version', (select max(version) from public.perdure_migrations),
    'row_security', (select bool_and(c.relrowsecurity and c.relforcerowsecurity) from pg_class c
                      where c.oid in ('public.chat_sessions'::regclass, 'public.chat_messages'::regclass,
                                      'public.chat_files'::regclass)),
    'stored_bytes', bytes, 'now', clock_timestamp());
end $function$;

do $grants$
declare
  api text;
  trusted constant text := 'public.purge_expired, public.delete_conversation, public.store_status';
  functions constant text := 'public.read_turns, public.list_conversations, public.list_files, public.search_messages';
begin
  execute 'revoke all on function ' || trusted || ', ' || functions || ' from public';
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function %s, %s from %I', trusted, functions, api);
    continue when api = 'anon';
    execute format('grant execute on function %s to %I', functions, api);
    continue when api = 'authenticated';
    execute format('grant execute on function %s to %I', trusted, api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (3, 'reading', 'b2a0e3ca2c43ee36a48193376e8088dfa2fdcaf364ea70ac0f1c36e50d00cb8c');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
