-- perdure 0012: a history of which its reader knows all is compared, and not read.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0012 needs 0011' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 11) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0012 needs 0011' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 12) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Both take and return what they did, and more. Their statements have one plan for all ("force_generic_plan"): left to itself,
-- the server makes another one for each call in a small database, which takes longer than the statements.
drop function public.begin_turns(json);
drop function public.finish_turns(json);

-- Begin turns, each as begin_turn_up_to does, where nothing stands in the way; a list of objects with that function's arguments,
-- all but fresh_id. Returns turns: one for each that was begun, as there; a turn that is not among them is to be begun by the
-- other functions: its id is taken, its conversation has expired, is full, or may not be adopted. In history stands the place
-- alone of a turn whose version is among known; any other comes whole, with its version.
--
-- A version is of the rows at one place, a turn's two or its prompt alone, by their ids and the transactions that wrote them: it
-- is another one as soon as anybody changes anything in them. Those of several places, exclusive-ored, are a version of them all. History
-- is null where known_version is that of all that stands between known_from and the turn: its reader knows what it would be. Else
-- known_from says from which place on it has to know the versions next time, and unread what they are beside those in history; both are
-- null in a fork, and where these places are too many. version is that of the turn's own prompt.
--
-- The transaction does not wait for the disk, so a crash of the server may take beginnings back, and give their places away;
-- an ending that is acknowledged waits for the disk, and takes all beginnings before it along.
create function public.begin_turns(beginnings json) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms'
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off
set enable_memoize = off set jit = off
as $function$
#variable_conflict use_column
declare
  several constant boolean := json_array_length(begin_turns.beginnings) > 1;
  begun uuid[] := '{}';
  added uuid[];
  places_given bigint;
  others uuid[];
  turns json[];
begin
  if not public.chat_trusted() then
    perform public.chat_principal(t.user_id) from json_to_recordset(begin_turns.beginnings) as t (user_id text);
  end if;
  perform set_config('synchronous_commit', 'off', true);
  if several then
    perform set_config('lock_timeout', '250ms', true);  -- the others shall not wait longer for one that is locked
  end if;
  -- Whoever waits for a conversation waits here, as in begin_turn; all in the same order, so that nobody waits in a ring.
  perform pg_advisory_xact_lock(k.key)
     from (select distinct hashtextextended(t.user_id || chr(31) || t.continuation_id, 0) as key
             from json_to_recordset(begin_turns.beginnings) as t (user_id text, continuation_id text) order by 1) k;
  loop
    with given as materialized (
      select t.*, row_number() over (partition by t.user_id, t.continuation_id order by t.turn_id) as nth
        from json_to_recordset(begin_turns.beginnings) as t (
               turn_id uuid, user_id text, continuation_id text, tool text, digest text, content text, body text,
               started_at timestamptz, lease_until timestamptz, metadata jsonb, adopt boolean, after_place bigint,
               deferred boolean, at timestamptz, expires_at timestamptz, last_place bigint)
       where not exists (select from public.chat_messages m where m.id = t.turn_id)
    ), wanted as (
      select g.user_id, g.continuation_id, count(*) as many, max(coalesce(g.at, clock_timestamp())) as moment,
             bool_and(coalesce(g.adopt, true)) as adopt, min(g.last_place) as last_place,
             (array_agg(g.expires_at order by g.nth desc) filter (where g.expires_at is not null))[1] as expires_at
        from given g group by g.user_id, g.continuation_id
    ), taken as (
      update public.chat_sessions x
         set last_place = x.last_place + w.many, updated_at = greatest(x.updated_at, w.moment),
             expires_at = coalesce(w.expires_at, x.expires_at)
        from wanted w
       where x.continuation_id = w.continuation_id and x.user_id = w.user_id and (x.minted or w.adopt)
         and (x.expires_at is null or x.expires_at > w.moment)
         and (w.last_place is null or x.last_place + w.many <= w.last_place)
      returning x.id, x.user_id, x.continuation_id, x.last_place - w.many as place_before, w.many
    ), added as (
      insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, deferred, role, content, body, created_at,
                                        metadata, user_id, tool, digest, after_place, lease_until)
        select g.turn_id, x.id, g.turn_id, x.place_before + g.nth, 0, coalesce(g.deferred, false), 'user', g.content, g.body,
               g.started_at, g.metadata, g.user_id, g.tool, g.digest, g.after_place, g.lease_until
          from taken x join given g on g.user_id = x.user_id and g.continuation_id = x.continuation_id
        on conflict (id) do nothing returning id
    )
    select (select array_agg(a.id) from added a), (select coalesce(sum(x.many), 0) from taken x) into added, places_given;
    begun := begun || coalesce(added, '{}');
    if coalesce(cardinality(added), 0) < places_given then
      -- Somebody began this very turn since we looked, elsewhere or where we may not look: no place stays empty.
      if several then
        raise exception 'A turn of the same id is being begun elsewhere' using errcode = 'lock_not_available';
      end if;
      update public.chat_sessions x set last_place = x.last_place - 1
        from json_to_recordset(begin_turns.beginnings) as t (user_id text, continuation_id text)
       where x.continuation_id = t.continuation_id and x.user_id = t.user_id;
      exit;
    end if;
    exit when cardinality(begun) = json_array_length(begin_turns.beginnings);
    insert into public.chat_sessions (continuation_id, user_id, minted, created_at, updated_at)
      select distinct on (t.user_id, t.continuation_id) t.continuation_id, t.user_id,
             coalesce(t.minted, false) or not coalesce(t.adopt, true),
             coalesce(t.at, clock_timestamp()), coalesce(t.at, clock_timestamp())
        from json_to_recordset(begin_turns.beginnings) as t (
               turn_id uuid, user_id text, continuation_id text, minted boolean, adopt boolean, at timestamptz)
       where (t.minted or coalesce(t.adopt, true)) and not exists (select from public.chat_messages m where m.id = t.turn_id)
         and not exists (select from public.chat_sessions x
                          where x.continuation_id = t.continuation_id and x.user_id = t.user_id)
      on conflict (continuation_id, user_id) do nothing;
    exit when not found;
  end loop;
  -- Statements of their own, so with snapshots of their own: they see what was committed while we waited.
  -- First those whose caller knows all that stands between known_from and the turn: nothing of it has to be read.
  select array_agg(json_build_object(
                     'status', 'new', 'turn_id', t.turn_id, 'place', b.turn_seq, 'outcome', null,
                     'continuation_id', t.continuation_id, 'version', b.version, 'history', null)) filter (where s.is_same),
         array_agg(t.turn_id) filter (where s.is_same is not true)
    into turns, others
    from json_to_recordset(begin_turns.beginnings) as t (
           turn_id uuid, continuation_id text, known_from bigint, known_version bigint)
   cross join lateral (select m.session_id, m.turn_seq,
                              hash_record_extended(row (m.id, m.xmin), 0) & 9007199254740991 as version
                         from public.chat_messages m where m.id = t.turn_id and m.id = any (begun) limit 1) b
   cross join lateral (select bit_xor(hash_record_extended(row (m.id, m.xmin), 0)) & 9007199254740991 = t.known_version as is_same
                         from public.chat_messages m
                        where m.session_id = b.session_id and m.turn_seq >= t.known_from and m.turn_seq < b.turn_seq) s;
  if others is not null then
    select turns || array_agg(json_build_object(
                                'status', 'new', 'turn_id', t.turn_id, 'place', b.turn_seq, 'outcome', null,
                                'continuation_id', t.continuation_id, 'version', b.version, 'history', h.lines,
                                'known_from', f.known_from, 'unread', o.unread))
      into turns
      from json_to_recordset(begin_turns.beginnings) as t (
             turn_id uuid, continuation_id text, max_turns integer, max_tokens bigint, known bigint[])
     cross join lateral (select m.session_id, m.turn_seq, m.user_id,
                                hash_record_extended(row (m.id, m.xmin), 0) & 9007199254740991 as version,
                                exists (select from public.chat_forks f where f.session_id = m.session_id) as is_fork
                           from public.chat_messages m where m.id = t.turn_id and m.id = any (others) limit 1) b
     cross join lateral (
       select coalesce(json_agg(
                case when v.version = any (t.known) then to_json(a.turn_seq)
                     else json_build_object(
                       'turn_id', q.id, 'place', q.turn_seq, 'tool', q.tool, 'digest', q.digest, 'prompt', q.content,
                       'prompt_body', q.body, 'started_at', q.created_at, 'lease_until', q.lease_until,
                       'after_place', q.after_place, 'deferred', q.deferred,
                       'metadata', case when q.body is null then q.metadata end, 'answer', a.content, 'answer_body', a.body,
                       'outcome', a.outcome, 'tokens', a.tokens, 'ended_at', a.created_at, 'version', v.version) end
                order by a.turn_seq) filter (where a.is_within and q.id is not null), '[]'::json) as lines,
              array_agg(a.turn_seq) filter (where a.is_within) as places,
              -- The newest that is too dear; or the oldest of as many as there may be. What stands before it cannot come in.
              case when b.is_fork or bool_or(q.id is null) then null
                   else coalesce(max(a.turn_seq) filter (where not a.is_within),
                                 min(a.turn_seq) filter (where a.nth = coalesce(t.max_turns, 20)), 1) end as known_from
         from (select newest.*, row_number() over newest as nth,
                      sum(newest.tokens) over newest <= coalesce(t.max_tokens, 8000) as is_within
                 from (select one.*
                         from (select b.session_id as segment, b.turn_seq - 1 as upto where not b.is_fork
                               union all
                               select l.segment, least(l.upto, b.turn_seq - 1) from public.chat_line(b.session_id) l
                                where b.is_fork) line
                        cross join lateral (
                          select m.session_id, m.turn_seq, m.tokens, m.id, m.xmin, m.content, m.body, m.outcome, m.created_at
                            from public.chat_messages m
                           where m.session_id = line.segment and m.part = 1 and m.outcome = 'answered'
                             and m.turn_seq <= line.upto
                           order by m.turn_seq desc limit coalesce(t.max_turns, 20)) one
                        order by one.turn_seq desc limit coalesce(t.max_turns, 20)) newest
               window newest as (order by newest.turn_seq desc)) a
         left join lateral (select m.*, m.xmin from public.chat_messages m
                             where m.session_id = a.session_id and m.turn_seq = a.turn_seq and m.part = 0
                               and m.user_id = b.user_id limit 1) q on true
        cross join lateral (select (hash_record_extended(row (q.id, q.xmin), 0) # hash_record_extended(row (a.id, a.xmin), 0))
                                   & 9007199254740991 as version) v) h
     cross join lateral (
       select case when b.turn_seq - h.known_from <= 200 then h.known_from end as known_from) f
     cross join lateral (
       select case when f.known_from is not null then (
                select coalesce(json_object_agg(r.turn_seq, r.version), '{}'::json)
                  from (select m.turn_seq, bit_xor(hash_record_extended(row (m.id, m.xmin), 0)) & 9007199254740991 as version
                          from public.chat_messages m
                         where m.session_id = b.session_id and m.turn_seq >= f.known_from and m.turn_seq < b.turn_seq
                           and m.turn_seq <> all (coalesce(h.places, '{}'))
                         group by m.turn_seq) r) end as unread) o;
  end if;
  return json_build_object('turns', to_json(coalesce(turns, '{}')));
end $function$;

-- Keep how turns ended, each as finish_turn does, where nothing stands in the way; a list of objects with that function's
-- arguments as far as ended_at. Returns turns: one for each that was ended, as there, with the version of its answer; a turn that is not
-- among them is to be ended by finish_turn: it is unknown, another's, or has an ending.
create function public.finish_turns(endings json) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms'
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $function$
#variable_conflict use_column
declare
  turns json;
begin
  if not public.chat_trusted() then
    perform public.chat_principal(t.user_id) from json_to_recordset(finish_turns.endings) as t (user_id text);
  end if;
  if json_array_length(finish_turns.endings) > 1 then
    perform set_config('lock_timeout', '250ms', true);
  end if;
  with given as materialized (
    select t.*, q.session_id, q.turn_seq
      from json_to_recordset(finish_turns.endings) as t (
             turn_id uuid, answer_id uuid, user_id text, digest text, outcome text, answer text, answer_body text,
             tokens integer, ended_at timestamptz)
     cross join lateral (select m.session_id, m.turn_seq from public.chat_messages m
                          where m.id = t.turn_id and m.part = 0 and m.user_id = t.user_id and m.digest = t.digest limit 1) q
     order by t.turn_id  -- so that two who end the same turns do not wait in a ring
  ), kept as (
    insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, tokens, role, content, body, created_at,
                                      user_id, outcome)
      select g.answer_id, g.session_id, g.turn_id, g.turn_seq, 1, g.tokens, 'assistant', g.answer, g.answer_body, g.ended_at,
             g.user_id, g.outcome
        from given g
      on conflict (session_id, turn_seq, part) do nothing
      returning turn_id, turn_seq, outcome, session_id, hash_record_extended(row (id, xmin), 0) & 9007199254740991 as version
  )
  select json_agg(json_build_object(
           'status', 'finished', 'turn_id', k.turn_id, 'place', k.turn_seq, 'outcome', k.outcome, 'files', '[]'::json,
           'version', k.version,
           'continuation_id', (select case when x.continuation_id not like chr(31) || '%' then x.continuation_id end
                                 from public.chat_sessions x where x.id = k.session_id)))
    into turns from kept k;
  return json_build_object('turns', coalesce(turns, '[]'::json));
end $function$;

do $grants$
declare
  api text;
  functions constant text := 'public.begin_turns, public.finish_turns';
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
insert into public.perdure_migrations (version, name, checksum) values (12, 'known_histories', '44f6dda123f06ab5c04c3adc6e27edcf7692f4da41d9eaa8b4c1464bebaf61d1');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
