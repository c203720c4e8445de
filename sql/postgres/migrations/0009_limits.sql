-- perdure 0009: what only forks have is found, and no conversation gets a turn too many.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0009 needs 0008' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 8) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0009 needs 0008' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 9) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Under which conversation a message is shown whose own is gone: of the forks that have its turn and can be read, the one that
-- was used last.
create function public.chat_heir(session uuid, place bigint, moment timestamptz) returns uuid
language sql stable security invoker set search_path = pg_catalog, pg_temp as $function$
  with recursive reader (id) as (
    select f.session_id from public.chat_forks f where f.parent_id = chat_heir.session and f.place >= chat_heir.place
    union all
    select f.session_id from reader join public.chat_forks f on f.parent_id = reader.id
  )
  select x.id from reader join public.chat_sessions x on x.id = reader.id
   where (x.expires_at is null or x.expires_at > chat_heir.moment) and x.continuation_id not like chr(31) || '%'
   order by x.updated_at desc, x.continuation_id desc limit 1
$function$;

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
               left join public.chat_sessions o on o.id = m.session_id
                and (o.expires_at is null or o.expires_at > $3) and o.continuation_id not like chr(31) || ''%''
               join public.chat_sessions s on s.id = coalesce(o.id, public.chat_heir(m.session_id, m.turn_seq, $3))';
  hits json;
begin
  -- Put together, so that each way to ask has its own plan and index. Only these fixed words ever go into the text.
  if find_messages.continuation_id is not null then
    shown := 'public.chat_sessions s
              cross join lateral public.chat_line(s.id) l
               join public.chat_messages m on m.session_id = l.segment and m.turn_seq <= l.upto';
  end if;
  if principal is not null then narrowed := narrowed || ' and m.user_id = $1 and s.user_id = $1'; end if;
  if find_messages.words is null then narrowed := narrowed || ' and m.part = 0'; else narrowed := narrowed || ' and m.words @@ $2'; end if;
  if find_messages.before_at is not null then narrowed := narrowed || ' and (m.created_at, m.turn_id, m.part) < ($9, $10, $11)'; end if;
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
                and ($7 is null or m.created_at >= $7) and ($8 is null or m.created_at < $8)
              order by m.created_at desc, m.turn_id desc, m.part desc limit $12) h'
    into hits
    using principal, asked, moment, find_messages.continuation_id, find_messages.tool, find_messages.outcome,
          find_messages.since, find_messages.until, find_messages.before_at, find_messages.before_turn,
          find_messages.before_part, find_messages.max_hits;
  return json_build_object('hits', coalesce(hits, '[]'::json));
end $function$;

-- As begin_turn_in_line, unless the conversation has given place last_place already: then nothing is written, and status is full.
create function public.begin_turn_up_to(
  last_place bigint,
  turn_id uuid, user_id text, continuation_id text, tool text, digest text, content text, body text,
  started_at timestamptz, lease_until timestamptz, metadata jsonb default null,
  minted boolean default false, adopt boolean default true, fresh_id text default null,
  after_place bigint default null, deferred boolean default false,
  max_turns integer default 20, max_tokens bigint default 8000, at timestamptz default null, expires_at timestamptz default null
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(begin_turn_up_to.user_id);
  given bigint;
begin
  -- As begin_turn does, so that nobody takes a place between the look and the turn.
  perform pg_advisory_xact_lock(hashtextextended(principal || chr(31) || begin_turn_up_to.continuation_id, 0));
  select x.last_place into given from public.chat_sessions x
   where x.continuation_id = begin_turn_up_to.continuation_id and x.user_id = principal and (x.minted or begin_turn_up_to.adopt)
     and (x.expires_at is null or x.expires_at > coalesce(begin_turn_up_to.at, clock_timestamp()));
  if given >= begin_turn_up_to.last_place
     and not exists (select from public.chat_messages x where x.id = begin_turn_up_to.turn_id) then
    return json_build_object('status', 'full', 'place', given);
  end if;
  return public.begin_turn_in_line(
    begin_turn_up_to.turn_id, begin_turn_up_to.user_id, begin_turn_up_to.continuation_id, begin_turn_up_to.tool,
    begin_turn_up_to.digest, begin_turn_up_to.content, begin_turn_up_to.body, begin_turn_up_to.started_at,
    begin_turn_up_to.lease_until, begin_turn_up_to.metadata, begin_turn_up_to.minted, begin_turn_up_to.adopt,
    begin_turn_up_to.fresh_id, begin_turn_up_to.after_place, begin_turn_up_to.deferred, begin_turn_up_to.max_turns,
    begin_turn_up_to.max_tokens, begin_turn_up_to.at, begin_turn_up_to.expires_at);
end $function$;

do $grants$
declare
  api text;
  functions constant text := 'public.chat_heir, public.find_messages, public.begin_turn_up_to';
begin
  execute 'revoke all on function ' || functions || ' from public';
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function %s from %I', functions, api);
    continue when api = 'anon';
    execute format('grant execute on function %s to %I', functions, api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (9, 'limits', 'c1239fe1827cb7ad64df9748868b1a717c102fc2f66c26789180815c082deacd');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
