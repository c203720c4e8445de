-- perdure 0002: the life of a turn, one function for each round trip; called alike by a driver and through PostgREST.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0002 needs 0001' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 2) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Whether the caller may name any principal: a service key, a superuser, the owner. Whoever row security binds may not.
create function public.chat_trusted() returns boolean
language sql stable security invoker set search_path = pg_catalog, pg_temp as $function$
  select not row_security_active('public.chat_sessions')
      or pg_has_role(current_user, (select c.relowner from pg_class c
                                                where c.oid = 'public.chat_sessions'::regclass), 'USAGE')
$function$;

-- Whose rows a function works on: the principal that a trusted caller names, else the subject of the caller's own token.
create function public.chat_principal(asked text) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
declare subject text;
begin
  if public.chat_trusted() then
    if coalesce(asked, '') = '' then
      raise exception 'user_id is required' using errcode = 'invalid_parameter_value';
    end if;
    return asked;
  end if;
  subject := public.chat_subject();
  if subject is null or asked <> subject then
    raise exception 'This token may not act for that user' using errcode = 'insufficient_privilege';
  end if;
  return subject;
end $function$;

-- The turns at these places of a principal's session, by place.
create function public.chat_turns(principal text, session uuid, places bigint[]) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
begin
  return (
    select coalesce(json_agg(t order by t.place), '[]'::json)
      from (select q.id as turn_id, q.turn_seq as place, q.tool, q.digest, q.content as prompt, q.body as prompt_body,
                   q.created_at as started_at, q.lease_until, q.after_place, q.deferred,
                   case when q.body is null then q.metadata end as metadata,
                   a.content as answer, a.body as answer_body, a.outcome, a.tokens, a.created_at as ended_at
              from unnest(chat_turns.places) as wanted (place)
             -- One by one: a plan from the days of empty tables would read the whole conversation.
             cross join lateral (select * from public.chat_messages m where m.session_id = chat_turns.session
                                    and m.turn_seq = wanted.place and m.part = 0 limit 1) q
              left join lateral (select * from public.chat_messages m where m.session_id = chat_turns.session
                                    and m.turn_seq = wanted.place and m.part = 1 limit 1) a on true
             where q.user_id = chat_turns.principal) t);
end $function$;

-- Give a turn its place, keep its prompt, and read the history before it.
-- Returns status (new, replay, conflict), continuation_id, place, outcome (null: running), history (turns, oldest first).
create function public.begin_turn(
  turn_id uuid, user_id text, continuation_id text, tool text, digest text, content text, body text,
  started_at timestamptz, lease_until timestamptz, metadata jsonb default null,
  minted boolean default false, adopt boolean default true, fresh_id text default null,
  after_place bigint default null, deferred boolean default false,
  max_turns integer default 20, max_tokens bigint default 8000, at timestamptz default null, expires_at timestamptz default null
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(begin_turn.user_id);
  moment constant timestamptz := coalesce(begin_turn.at, clock_timestamp());
  wanted text := begin_turn.continuation_id;
  adoptable boolean;
  s public.chat_sessions;
  q public.chat_messages;
  is_new boolean := false;
  ended_as text;
  places bigint[];
begin
  select * into q from public.chat_messages where id = begin_turn.turn_id;
  if not found then
    if not begin_turn.adopt then
      select x.minted into adoptable from public.chat_sessions x
       where x.continuation_id = wanted and x.user_id = principal and (x.expires_at is null or x.expires_at > moment);
      if not coalesce(adoptable, begin_turn.minted) then wanted := begin_turn.fresh_id; end if;
    end if;
    -- Whoever waits for the row waits here, in the order of arrival: waiters on a row alone are served in none, and some starve.
    perform pg_advisory_xact_lock(hashtextextended(principal || chr(31) || wanted, 0));
    loop
      -- NO KEY UPDATE: a turn that is being finished holds KEY SHARE on this row by its foreign key, and must not wait.
      select * into s from public.chat_sessions x
       where x.continuation_id = wanted and x.user_id = principal for no key update;
      if found and s.expires_at <= moment then
        -- Expired and not purged yet: never read, never continued. No client's id has a control character in it.
        update public.chat_sessions x set continuation_id = chr(31) || x.id where x.id = s.id;
        continue;
      end if;
      exit when found;
      insert into public.chat_sessions (continuation_id, user_id, minted, created_at, updated_at, expires_at)
        values (wanted, principal, begin_turn.minted or not begin_turn.adopt, moment, moment, begin_turn.expires_at)
        on conflict (continuation_id, user_id) do nothing returning * into s;
      exit when found;
    end loop;
    insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, deferred, role, content, body, created_at,
                                      metadata, user_id, tool, digest, after_place, lease_until)
      values (begin_turn.turn_id, s.id, begin_turn.turn_id, s.last_place + 1, 0, begin_turn.deferred, 'user',
              begin_turn.content, begin_turn.body, begin_turn.started_at, begin_turn.metadata, principal, begin_turn.tool,
              begin_turn.digest, begin_turn.after_place, begin_turn.lease_until)
      on conflict (id) do nothing returning * into q;
    is_new := found;
    if is_new then
      update public.chat_sessions x
         set last_place = q.turn_seq, updated_at = greatest(x.updated_at, moment),
             expires_at = coalesce(begin_turn.expires_at, x.expires_at)
       where x.id = s.id;
    else
      -- Somebody wrote this id since we looked: the same turn, or one of a principal whom row security hides from us.
      if public.chat_trusted() then
        delete from public.chat_sessions x where x.id = s.id and x.last_place = 0;
      end if;
      select * into q from public.chat_messages where id = begin_turn.turn_id;
    end if;
  end if;
  if q.id is null or q.part <> 0 or q.user_id <> principal or q.digest <> begin_turn.digest then
    return json_build_object('status', 'conflict');
  end if;
  if not is_new then
    select * into s from public.chat_sessions x where x.id = q.session_id;
    select a.outcome into ended_as from public.chat_messages a
     where a.session_id = q.session_id and a.turn_seq = q.turn_seq and a.part = 1;
  end if;
  -- A statement of its own, so with a snapshot of its own: it sees what was committed while we waited for the row.
  if s.expires_at is null or s.expires_at > moment then
    select array_agg(newest.turn_seq) into places
      from (select w.turn_seq, sum(w.tokens) over (order by w.turn_seq desc) as spent
              from (select a.turn_seq, a.tokens from public.chat_messages a
                     where a.session_id = q.session_id and a.part = 1 and a.outcome = 'answered' and a.turn_seq < q.turn_seq
                     order by a.turn_seq desc limit begin_turn.max_turns) w) newest
     where newest.spent <= begin_turn.max_tokens;
  end if;
  return json_build_object(
    'status', case when is_new then 'new' else 'replay' end, 'turn_id', q.id, 'place', q.turn_seq, 'outcome', ended_as,
    'continuation_id', case when s.continuation_id like chr(31) || '%' then wanted else s.continuation_id end,
    'history', case when places is null then '[]'::json else public.chat_turns(principal, q.session_id, places) end);
end $function$;

-- Keep how a turn ended. The first ending wins. Touches no row of chat_sessions, unless the turn was never begun here (it
-- must then be given whole: with its prompt and all that begin_turn takes) or gave out files (whose versions are counted).
-- Returns status (finished, replay, unknown, conflict), continuation_id, place, outcome, files.
create function public.finish_turn(
  turn_id uuid, answer_id uuid, user_id text, digest text, outcome text, answer text, answer_body text, tokens integer,
  ended_at timestamptz, files json default null,
  continuation_id text default null, tool text default null, content text default null, body text default null,
  started_at timestamptz default null, lease_until timestamptz default null, metadata jsonb default null,
  minted boolean default false, adopt boolean default true, fresh_id text default null,
  after_place bigint default null, deferred boolean default false, at timestamptz default null,
  expires_at timestamptz default null
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' set enable_seqscan = off as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(finish_turn.user_id);
  q public.chat_messages;
  is_new boolean;
  ended_as text := finish_turn.outcome;
  begun json;
  given json;
begin
  select * into q from public.chat_messages where id = finish_turn.turn_id;
  if not found then
    if finish_turn.content is null then
      return json_build_object('status', 'unknown', 'turn_id', finish_turn.turn_id);
    end if;
    begun := public.begin_turn(
      finish_turn.turn_id, principal, finish_turn.continuation_id, finish_turn.tool, finish_turn.digest,
      finish_turn.content, finish_turn.body, finish_turn.started_at, finish_turn.lease_until, finish_turn.metadata,
      finish_turn.minted, finish_turn.adopt, finish_turn.fresh_id, finish_turn.after_place, finish_turn.deferred,
      0, 0, finish_turn.at, finish_turn.expires_at);
    select * into q from public.chat_messages where id = finish_turn.turn_id;
  end if;
  if q.id is null or q.part <> 0 or q.user_id <> principal or q.digest <> finish_turn.digest then
    return json_build_object('status', 'conflict');
  end if;
  if finish_turn.files is not null then
    -- Before the answer: everybody locks a conversation first and its messages afterwards, or they would wait in a ring.
    perform from public.chat_sessions x where x.id = q.session_id for no key update;
  end if;
  insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, tokens, role, content, body, created_at,
                                    user_id, outcome)
    values (finish_turn.answer_id, q.session_id, q.id, q.turn_seq, 1, finish_turn.tokens, 'assistant', finish_turn.answer,
            finish_turn.answer_body, finish_turn.ended_at, principal, finish_turn.outcome)
    on conflict (session_id, turn_seq, part) do nothing;
  is_new := found;
  if not is_new then
    select a.outcome into ended_as from public.chat_messages a
     where a.session_id = q.session_id and a.turn_seq = q.turn_seq and a.part = 1;
  end if;
  if finish_turn.files is not null then
    if is_new then
      perform public.chat_keep_file(q.session_id, q.id, principal, finish_turn.ended_at, f)
         from json_array_elements(finish_turn.files) f;
    end if;
    select json_agg(f order by f.name, f.version) into given
      from (select x.name, x.version, x.bucket, x.key, x.sha256, x.size, x.media_type, x.created_at
              from public.chat_files x where x.turn_id = q.id and x.user_id = principal) f;
  end if;
  return json_build_object(
    'status', case when is_new then 'finished' else 'replay' end, 'turn_id', q.id, 'place', q.turn_seq,
    'outcome', ended_as, 'files', coalesce(given, '[]'::json),
    'continuation_id', coalesce(begun ->> 'continuation_id', (
      select case when x.continuation_id not like chr(31) || '%' then x.continuation_id end  -- else: expired
        from public.chat_sessions x where x.id = q.session_id)));
end $function$;

-- New content under a name is a new version of it; the same content again is not. The caller holds the conversation's row.
create function public.chat_keep_file(session uuid, turn uuid, principal text, kept_at timestamptz, file json) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $function$
declare newest record;
begin
  select f.version, f.sha256 into newest from public.chat_files f
   where f.session_id = session and f.name = file ->> 'name' order by f.version desc limit 1;
  insert into public.chat_files (session_id, turn_id, version, size, user_id, name, bucket, key, sha256, media_type, created_at)
    select session, turn,
            case when newest.sha256 = file ->> 'sha256' then newest.version else coalesce(newest.version, 0) + 1 end,
            (file ->> 'size')::bigint, principal, file ->> 'name', file ->> 'bucket', file ->> 'key', file ->> 'sha256',
            file ->> 'media_type', kept_at
     where exists (select from public.chat_sessions s where s.id = session and s.user_id = principal)
    on conflict do nothing;
end $function$;

do $grants$
declare
  api text;
  functions constant text := 'public.chat_trusted(), public.chat_principal(text), public.chat_turns(text, uuid, bigint[]), '
    'public.begin_turn, public.finish_turn, public.chat_keep_file';
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
insert into public.perdure_migrations (version, name, checksum) values (2, 'turns', '19a9f8efca84b2e25fe71f4b97eb86e9922b759415a5e2ff56e6e2d687dc9813');
perform pg_notify('pgrst', 'reload schema');  -- hosted Supabase notices by itself, PostgREST alone does not
end $migration$;
