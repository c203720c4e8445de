-- perdure 0008: forks of conversations, which share the turns of another up to a place.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0008 needs 0007' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 7) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0008 needs 0007' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 8) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- A conversation and those that it was forked from, the nearest first (depth 0), each with the last place it has of it.
create function public.chat_line(session uuid) returns table (depth integer, segment uuid, upto bigint)
language sql stable security invoker set search_path = pg_catalog, pg_temp as $function$
  with recursive line (depth, segment, upto) as (
    select 0, chat_line.session, 9223372036854775806
    union all
    select line.depth + 1, f.parent_id, f.place from line join public.chat_forks f on f.session_id = line.segment
  )
  select line.depth, line.segment, line.upto from line
$function$;

-- Lists of turns, each in its order, as one.
create function public.chat_joined(lists json[]) returns json
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $function$
  select coalesce(json_agg(t.turn order by l.place, t.place), '[]'::json)
    from unnest(chat_joined.lists) with ordinality l (list, place)
   cross join lateral json_array_elements(l.list) with ordinality t (turn, place)
$function$;

-- As begin_turn; the history of a fork goes back into what it was forked from.
create function public.begin_turn_in_line(
  turn_id uuid, user_id text, continuation_id text, tool text, digest text, content text, body text,
  started_at timestamptz, lease_until timestamptz, metadata jsonb default null,
  minted boolean default false, adopt boolean default true, fresh_id text default null,
  after_place bigint default null, deferred boolean default false,
  max_turns integer default 20, max_tokens bigint default 8000, at timestamptz default null, expires_at timestamptz default null
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
#variable_conflict use_column
declare
  begun constant json := public.begin_turn(
    begin_turn_in_line.turn_id, begin_turn_in_line.user_id, begin_turn_in_line.continuation_id,
    begin_turn_in_line.tool, begin_turn_in_line.digest, begin_turn_in_line.content, begin_turn_in_line.body,
    begin_turn_in_line.started_at, begin_turn_in_line.lease_until, begin_turn_in_line.metadata,
    begin_turn_in_line.minted, begin_turn_in_line.adopt, begin_turn_in_line.fresh_id, begin_turn_in_line.after_place,
    begin_turn_in_line.deferred, begin_turn_in_line.max_turns, begin_turn_in_line.max_tokens, begin_turn_in_line.at,
    begin_turn_in_line.expires_at);
  principal constant text := public.chat_principal(begin_turn_in_line.user_id);
  q public.chat_messages;
  line record;
  answer record;
  places bigint[];
  lists json[] := '{}';
  taken integer := 0;
  spent bigint := 0;
begin
  select * into q from public.chat_messages x where x.id = begin_turn_in_line.turn_id;
  if begun ->> 'status' = 'conflict' or not exists (select from public.chat_forks f where f.session_id = q.session_id)
     or exists (select from public.chat_sessions x
                 where x.id = q.session_id and x.expires_at <= coalesce(begin_turn_in_line.at, clock_timestamp())) then
    return begun;
  end if;
  for line in select l.segment, l.upto from public.chat_line(q.session_id) l order by l.depth loop
    places := '{}';
    for answer in
      select a.turn_seq, a.tokens from public.chat_messages a
       where a.session_id = line.segment and a.part = 1 and a.outcome = 'answered' and a.turn_seq < least(q.turn_seq, line.upto + 1)
       order by a.turn_seq desc limit begin_turn_in_line.max_turns - taken
    loop
      spent := spent + answer.tokens;
      exit when spent > begin_turn_in_line.max_tokens;
      places := answer.turn_seq || places;
      taken := taken + 1;
    end loop;
    lists := public.chat_turns(principal, line.segment, places) || lists;
    exit when spent > begin_turn_in_line.max_tokens or taken >= begin_turn_in_line.max_turns;
  end loop;
  return json_build_object(
    'status', begun -> 'status', 'turn_id', begun -> 'turn_id', 'place', begun -> 'place', 'outcome', begun -> 'outcome',
    'continuation_id', begun -> 'continuation_id', 'history', public.chat_joined(lists));
end $function$;

-- As read_turns; a fork's turns are those that it shares, and its own after them.
create function public.read_turns_in_line(
  user_id text, continuation_id text, after_place bigint default 0, max_turns integer default 100, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(read_turns_in_line.user_id);
  session uuid;
  line record;
  places bigint[];
  lists json[] := '{}';
  after bigint := read_turns_in_line.after_place;
  left_over integer := read_turns_in_line.max_turns;
begin
  select x.id into session from public.chat_sessions x
   where x.continuation_id = read_turns_in_line.continuation_id and x.user_id = principal
     and (x.expires_at is null or x.expires_at > coalesce(read_turns_in_line.at, clock_timestamp()));
  if not exists (select from public.chat_forks f where f.session_id = session) then
    return public.read_turns(
      read_turns_in_line.user_id, read_turns_in_line.continuation_id, read_turns_in_line.after_place,
      read_turns_in_line.max_turns, read_turns_in_line.at);
  end if;
  for line in select l.segment, l.upto from public.chat_line(session) l order by l.depth desc loop
    select coalesce(array_agg(p.turn_seq), '{}') into places
      from (select q.turn_seq from public.chat_messages q
             where q.session_id = line.segment and q.part = 0 and q.turn_seq > after and q.turn_seq <= line.upto
             order by q.turn_seq limit left_over) p;
    lists := lists || public.chat_turns(principal, line.segment, places);
    left_over := left_over - cardinality(places);
    exit when left_over <= 0;
    after := greatest(after, line.upto);
  end loop;
  return json_build_object('turns', public.chat_joined(lists));
end $function$;

-- Make a conversation that has the turns of another up to a place. Returns status: forked, missing (no such conversation, or
-- no turn there), taken (there is one of the new id).
create function public.fork_conversation(
  user_id text, continuation_id text, fork_place bigint, new_id text, minted boolean default false, at timestamptz default null
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(fork_conversation.user_id);
  moment constant timestamptz := coalesce(fork_conversation.at, clock_timestamp());
  s public.chat_sessions;
  made uuid;
  owner uuid;
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may fork' using errcode = 'insufficient_privilege';
  end if;
  select * into s from public.chat_sessions x
   where x.continuation_id = fork_conversation.continuation_id and x.user_id = principal
     and (x.expires_at is null or x.expires_at > moment) for no key update;
  if s.id is null or fork_conversation.fork_place not between 1 and s.last_place then
    return json_build_object('status', 'missing');
  end if;
  update public.chat_sessions x set continuation_id = chr(31) || x.id
   where x.continuation_id = fork_conversation.new_id and x.user_id = principal and x.expires_at <= moment;
  insert into public.chat_sessions (continuation_id, user_id, minted, created_at, updated_at)
    values (fork_conversation.new_id, principal, fork_conversation.minted, moment, moment)
    on conflict (continuation_id, user_id) do nothing returning id into made;
  if made is null then
    return json_build_object('status', 'taken');
  end if;
  update public.chat_sessions x set last_place = fork_conversation.fork_place, expires_at = s.expires_at where x.id = made;
  select l.segment into owner from public.chat_line(s.id) l
   where fork_conversation.fork_place <= l.upto order by l.depth desc limit 1;
  insert into public.chat_forks (session_id, parent_id, place, user_id)
    values (made, owner, fork_conversation.fork_place, principal);
  insert into public.chat_files (session_id, turn_id, version, size, user_id, name, bucket, key, sha256, media_type, created_at)
    select made, f.turn_id, f.version, f.size, f.user_id, f.name, f.bucket, f.key, f.sha256, f.media_type, f.created_at
      from public.chat_files f join public.chat_messages q on q.id = f.turn_id and q.part = 0
     where f.session_id = s.id and f.user_id = principal and q.turn_seq <= fork_conversation.fork_place;
  return json_build_object('status', 'forked');
end $function$;

do $grants$
declare
  api text;
  functions constant text := 'public.chat_line, public.chat_joined, public.begin_turn_in_line, public.read_turns_in_line';
begin
  execute 'revoke all on function ' || functions || ', public.fork_conversation from public';
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function %s, public.fork_conversation from %I', functions, api);
    continue when api = 'anon';
    execute format('grant execute on function %s to %I', functions, api);
    continue when api = 'authenticated';
    execute format('grant execute on function public.fork_conversation to %I', api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (8, 'forks', '148307e403d8eb513e59f2e117345ba9b333c0e5a2aa0f545fbb12ccfeb5a016');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
