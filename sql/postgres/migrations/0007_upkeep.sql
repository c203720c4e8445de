-- perdure 0007: finding messages for an operator as well, removing conversations, and counting what is kept.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0007 needs 0006' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 6) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0007 needs 0006' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 7) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Messages that answer a question, newest first, from the one after (before_at, before_turn, before_part). words: a tsquery
-- as text; null: any message, of each turn its prompt. user_id null: everybody's for a trusted caller, the token's own for
-- any other. What was found stands in the excerpt between U+E000 and U+E001.
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
  hits json;
begin
  -- Put together, so that each way to ask has its own plan and index. Only these fixed words ever go into the text.
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
               from public.chat_messages m
               join public.chat_sessions s on s.id = m.session_id
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

-- A conversation that was forked from another has the turns of that one up to a place, and its own after it.
create table public.chat_forks (
  session_id  uuid    primary key references public.chat_sessions (id) on delete cascade,
  parent_id   uuid    not null references public.chat_sessions (id),  -- which therefore stays as long as the fork
  place       bigint  not null check (place > 0),
  user_id     text    collate "C" not null                            -- the sessions': so that row security needs no join
);
create index chat_forks_parent on public.chat_forks (parent_id, place);
alter table public.chat_forks enable row level security;
alter table public.chat_forks force row level security;
create policy server on public.chat_forks to current_user using (true) with check (true);
create policy own on public.chat_forks for select using (user_id = (select public.chat_subject()));
comment on table public.chat_forks is 'perdure: which conversation shares the turns of another, up to which place.';

-- Whether nobody but its forks needs a conversation, and no more is left of it than they need.
create function public.chat_only_for_forks(session uuid, continuation_id text, last_place bigint) returns boolean
language sql stable security invoker set search_path = pg_catalog, pg_temp as $function$
  select chat_only_for_forks.continuation_id like chr(31) || '%'
     and chat_only_for_forks.last_place
         <= coalesce((select max(f.place) from public.chat_forks f where f.parent_id = chat_only_for_forks.session), -1)
$function$;

-- Remove these conversations, whose rows the caller holds, or only say what would go. Of one that was forked, what its forks
-- need stays, without a name. Returns how many, of how many turns, and the files that no turn names any more: their bytes may
-- go; shared: unless they are kept once for all names of a content.
create function public.chat_remove(gone uuid[], moment timestamptz, dry_run boolean) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set enable_seqscan = off as $function$
declare
  kept uuid[] := '{}';
  above uuid[];
  more uuid[];
  turns bigint;
  named json;
begin
  loop
    select array_agg(distinct f.parent_id) into more from public.chat_forks f
     where f.parent_id = any (chat_remove.gone) and f.parent_id <> all (kept)
       and (f.session_id <> all (chat_remove.gone) or f.session_id = any (kept));
    exit when more is null;
    kept := kept || more;
  end loop;
  select count(*) into turns from public.chat_messages x
   where x.session_id = any (chat_remove.gone) and x.part = 0
     and (x.session_id <> all (kept)
          or x.turn_seq > (select max(f.place) from public.chat_forks f where f.parent_id = x.session_id
                              and (f.session_id <> all (chat_remove.gone) or f.session_id = any (kept))));
  select json_agg(f order by f.bucket, f.key) into named
    from (select distinct x.bucket, x.key, exists (
                   select from public.chat_files o  -- the same tenant and hash: '0' comes after '/'
                    where o.key >= rtrim(x.key, replace(x.key, '/', '')) and o.bucket = x.bucket
                      and o.key < rtrim(rtrim(x.key, replace(x.key, '/', '')), '/') || '0'
                      and o.session_id <> all (chat_remove.gone)) as shared
            from public.chat_files x
           where x.session_id = any (chat_remove.gone) and split_part(x.key, '/', 1) = public.chat_tenant(x.user_id)
             and not exists (select from public.chat_files o
                              where o.bucket = x.bucket and o.key = x.key
                                and o.session_id <> all (chat_remove.gone))) f;
  if not chat_remove.dry_run then
    select array_agg(distinct f.parent_id) into above from public.chat_forks f
     where f.session_id = any (chat_remove.gone) and f.session_id <> all (kept) and f.parent_id <> all (chat_remove.gone);
    delete from public.chat_sessions x where x.id = any (chat_remove.gone) and x.id <> all (kept);
    update public.chat_sessions x
       set continuation_id = chr(31) || x.id,
           expires_at = least(coalesce(x.expires_at, chat_remove.moment), chat_remove.moment),
           last_place = (select max(f.place) from public.chat_forks f where f.parent_id = x.id)
     where x.id = any (kept);
    delete from public.chat_messages x
     where x.session_id = any (kept)
       and x.turn_seq > (select max(f.place) from public.chat_forks f where f.parent_id = x.session_id);
    delete from public.chat_files x where x.session_id = any (kept);  -- forks name theirs themselves
    loop  -- upwards: what was there only for a fork that is gone now
      select array_agg(x.id) into more from public.chat_sessions x
       where x.id = any (above) and x.continuation_id like chr(31) || '%'
         and not exists (select from public.chat_forks f where f.parent_id = x.id);
      exit when more is null;
      select array_agg(distinct f.parent_id) into above from public.chat_forks f where f.session_id = any (more);
      delete from public.chat_sessions x where x.id = any (more);
    end loop;
  end if;
  return json_build_object('conversations', coalesce(cardinality(chat_remove.gone), 0), 'turns', turns,
                                      'files', coalesce(named, '[]'::json));
end $function$;

-- As purge_expired, with the turns counted; dry_run: only what would go.
create function public.remove_expired(
  max_conversations integer default 100, dry_run boolean default false, at timestamptz default null
) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
declare
  moment constant timestamptz := coalesce(remove_expired.at, clock_timestamp());
  gone uuid[];
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may purge' using errcode = 'insufficient_privilege';
  end if;
  if remove_expired.dry_run then
    select array_agg(e.id) into gone
      from (select x.id from public.chat_sessions x
             where x.expires_at <= moment and not public.chat_only_for_forks(x.id, x.continuation_id, x.last_place)
             order by x.expires_at limit remove_expired.max_conversations) e;
  else
    select array_agg(e.id) into gone
      from (select x.id from public.chat_sessions x
             where x.expires_at <= moment and not public.chat_only_for_forks(x.id, x.continuation_id, x.last_place)
             order by x.expires_at limit remove_expired.max_conversations for update skip locked) e;
  end if;
  return public.chat_remove(coalesce(gone, '{}'), moment, remove_expired.dry_run);
end $function$;

-- Remove one conversation that can be read, for good.
create function public.remove_conversation(user_id text, continuation_id text, at timestamptz default null) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
declare
  principal constant text := public.chat_principal(remove_conversation.user_id);
  moment constant timestamptz := coalesce(remove_conversation.at, clock_timestamp());
  gone uuid[];
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may delete' using errcode = 'insufficient_privilege';
  end if;
  select array_agg(e.id) into gone
    from (select x.id from public.chat_sessions x
           where x.continuation_id = remove_conversation.continuation_id and x.user_id = principal
             and (x.expires_at is null or x.expires_at > moment) for update) e;
  return public.chat_remove(coalesce(gone, '{}'), moment, false);
end $function$;

-- Remove what a principal has, expired or not, up to max_conversations.
create function public.forget_user(user_id text, max_conversations integer default 100) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $function$
declare
  principal constant text := public.chat_principal(forget_user.user_id);
  gone uuid[];
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may delete' using errcode = 'insufficient_privilege';
  end if;
  select array_agg(e.id) into gone
    from (select x.id from public.chat_sessions x where x.user_id = principal
             and not public.chat_only_for_forks(x.id, x.continuation_id, x.last_place)
           order by exists (select from public.chat_forks f where f.parent_id = x.id), x.id
           limit forget_user.max_conversations for update) e;
  return public.chat_remove(coalesce(gone, '{}'), clock_timestamp(), false);
end $function$;

-- How much is kept that can be read, of one principal or (null) of everybody; and how many conversations wait to be purged.
create function public.store_statistics(user_id text default null, at timestamptz default null) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  moment constant timestamptz := coalesce(store_statistics.at, clock_timestamp());
  counted record;
  outcomes json;
  contents record;
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may ask' using errcode = 'insufficient_privilege';
  end if;
  select count(distinct c.user_id) filter (where c.living) as users, count(*) filter (where c.living) as conversations,
         count(*) filter (where not c.living and not c.needed) as expired,
         min(c.created_at) filter (where c.living) as oldest, max(c.updated_at) filter (where c.living) as newest
    into counted
    from (select x.*, x.expires_at is null or x.expires_at > moment as living,
                 public.chat_only_for_forks(x.id, x.continuation_id, x.last_place) as needed
            from public.chat_sessions x
           where store_statistics.user_id is null or x.user_id = store_statistics.user_id) c;
  select json_agg(o order by o.turns desc, o.outcome) into outcomes
    from (select coalesce(a.outcome, case when coalesce(q.lease_until, q.created_at) < moment then 'interrupted'
                                          else 'running' end) as outcome, count(*) as turns
            from public.chat_sessions s
            join public.chat_messages q on q.session_id = s.id and q.part = 0
            left join public.chat_messages a on a.session_id = s.id and a.turn_seq = q.turn_seq and a.part = 1
           where (store_statistics.user_id is null or s.user_id = store_statistics.user_id)
             and (s.expires_at is null or s.expires_at > moment)
           group by 1) o;
  select count(*) as files, coalesce(sum(f.size), 0) as bytes into contents
    from (select distinct x.bucket, x.key, x.size from public.chat_files x
            join public.chat_sessions s on s.id = x.session_id
           where (store_statistics.user_id is null or x.user_id = store_statistics.user_id)
             and (s.expires_at is null or s.expires_at > moment)) f;
  return json_build_object(
    'users', counted.users, 'conversations', counted.conversations, 'expired', counted.expired,
    'oldest', counted.oldest, 'newest', counted.newest, 'outcomes', coalesce(outcomes, '[]'::json),
    'files', contents.files, 'bytes', contents.bytes);
end $function$;

-- What had been there before forks: a conversation that was forked cannot just be deleted any more. They answer as they did.
drop function public.purge_expired(integer, timestamptz);
create function public.purge_expired(max_conversations integer default 100, at timestamptz default null) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' set enable_seqscan = off as $function$
#variable_conflict use_column
declare answer json;
begin
  if not public.chat_trusted() then
    raise exception 'Only a server may purge' using errcode = 'insufficient_privilege';
  end if;
  answer := public.remove_expired(purge_expired.max_conversations, false, purge_expired.at);
  return json_build_object('conversations', answer -> 'conversations', 'files', (
    select coalesce(json_agg(json_build_object('bucket', f.file -> 'bucket', 'key', f.file -> 'key') order by f.place), '[]'::json)
      from json_array_elements(answer -> 'files') with ordinality f (file, place)));
end $function$;

drop function public.delete_conversation(text, text);
create function public.delete_conversation(user_id text, continuation_id text) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' set enable_seqscan = off as $function$
#variable_conflict use_column
declare
  principal constant text := public.chat_principal(delete_conversation.user_id);
  gone uuid;
  answer json;
begin
  select x.id into gone from public.chat_sessions x
   where x.continuation_id = delete_conversation.continuation_id and x.user_id = principal for update;
  answer := public.chat_remove(array_remove(array[gone], null), clock_timestamp(), false);
  return json_build_object('deleted', gone is not null, 'files', (
    select coalesce(json_agg(json_build_object('bucket', f.file -> 'bucket', 'key', f.file -> 'key') order by f.place), '[]'::json)
      from json_array_elements(answer -> 'files') with ordinality f (file, place)));
end $function$;

do $grants$
declare
  api text;
  trusted constant text := 'public.chat_remove, public.chat_only_for_forks, public.remove_expired, public.remove_conversation, '
    'public.forget_user, public.store_statistics, public.purge_expired, public.delete_conversation';
begin
  execute 'revoke all on function ' || trusted || ', public.find_messages from public';
  revoke all on public.chat_forks from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function %s, public.find_messages from %I', trusted, api);
    execute format('revoke all on public.chat_forks from %I', api);
    continue when api = 'anon';
    execute format('grant execute on function public.find_messages to %I', api);
    execute format('grant select on public.chat_forks to %I', api);
    continue when api = 'authenticated';
    execute format('grant insert on public.chat_forks to %I', api);
    execute format('grant delete on public.chat_messages, public.chat_files to %I', api);
    execute format('grant execute on function %s to %I', trusted, api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (7, 'upkeep', 'ad1bd2855e718fdcdf14d97a7978a0a10af1b8d7fe1a4a5625381233936129a6');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
