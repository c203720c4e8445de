-- perdure 0001: the tables, who may see which rows, and the adoption of tables of the founding plan.
-- Postgres 14 or newer, with or without Supabase. One statement, so one transaction however it is sent: by `perdure migrate`,
-- by the Supabase CLI, or pasted into its SQL editor. A second time it does nothing.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if current_setting('server_encoding') <> 'UTF8' then
  raise exception 'This database is encoded in %, which cannot hold every text', current_setting('server_encoding')
    using hint = 'Make one with: create database … encoding ''UTF8'' template template0.';
end if;
if to_regclass('public.perdure_migrations') is null then
  create table public.perdure_migrations (
    version     integer     primary key,
    name        text        not null,
    checksum    text        not null,
    applied_at  timestamptz not null default now()
  );
end if;
if exists (select from public.perdure_migrations where version = 1) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Tables of these names that are here already: those of the founding plan are adopted, any other is left alone. Their
-- rows are set aside here, and come back below once the tables have their new form.
create temporary table adopted_sessions (
  id uuid, continuation_id text, user_id text, metadata jsonb, created_at timestamptz, updated_at timestamptz, n bigint
) on commit drop;
create temporary table adopted_messages (
  id uuid, session_id uuid, role text, content text, metadata jsonb, created_at timestamptz, n bigint
) on commit drop;

do $adopt$
declare
  planned constant json := '{
    "chat_sessions": "continuation_id text, created_at time, id uuid, metadata jsonb, updated_at time, user_id text",
    "chat_messages": "content text, created_at time, id uuid, metadata jsonb, role text, session_id uuid",
    "chat_files": ""}';
  name text; kind "char"; there text;
begin
  foreach name in array array['chat_sessions', 'chat_messages', 'chat_files'] loop
    select c.relkind,
           (select string_agg(a.attname || ' ' || case
                     when a.atttypid in ('text'::regtype, 'varchar'::regtype) then 'text'
                     when a.atttypid in ('timestamp'::regtype, 'timestamptz'::regtype) then 'time'
                     when a.atttypid in ('json'::regtype, 'jsonb'::regtype) then 'jsonb'
                     else format_type(a.atttypid, a.atttypmod) end, ', ' order by a.attname)
              from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
      into kind, there
      from pg_class c where c.oid = to_regclass('public.' || name);
    continue when not found;
    if kind <> 'r' or there is distinct from planned ->> name then
      raise exception 'public.% is there already and is not one of perdure''s: it has (%)', name, there
        using errcode = 'duplicate_table',
              hint = 'Rename it or move it to another schema, or give perdure a database of its own.';
    end if;
    if name = 'chat_sessions' then
      alter table public.chat_sessions no force row level security;  -- or a policy may hide rows from their owner
      insert into adopted_sessions
        select id, continuation_id, user_id, metadata::jsonb, created_at, updated_at,
               row_number() over (order by created_at, ctid)
          from public.chat_sessions;
    else
      alter table public.chat_messages no force row level security;
      insert into adopted_messages
        select id, session_id, role, content, metadata::jsonb, created_at,
               row_number() over (order by created_at nulls first, ctid)  -- one transaction's rows have one time
          from public.chat_messages;
    end if;
  end loop;
  drop table if exists public.chat_messages;
  drop table if exists public.chat_sessions;
exception when dependent_objects_still_exist then
  get stacked diagnostics there = pg_exception_detail;
  raise exception 'The tables chat_sessions and chat_messages cannot be adopted: %', replace(there, E'\n', ', ')
    using errcode = 'dependent_objects_still_exist',
          hint = 'Drop the views or foreign keys that refer to them, migrate, and make them again.';
end $adopt$;

create table public.chat_sessions (
  id               uuid        primary key default gen_random_uuid(),
  continuation_id  text        collate "C" not null check (length(continuation_id) between 1 and 200),
  user_id          text        collate "C" not null check (user_id <> ''),
  minted           boolean     not null default false,  -- true: perdure made the id; false: a client chose it
  last_place       bigint      not null default 0,
  metadata         jsonb,
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now(),  -- when the newest turn began
  expires_at       timestamptz,
  unique (continuation_id, user_id),
  check (created_at between '0001-01-02Z' and '9999-12-30Z' and updated_at between '0001-01-02Z' and '9999-12-30Z')
);
create index chat_sessions_newest on public.chat_sessions (updated_at desc, user_id desc, continuation_id desc);
create index chat_sessions_newest_of_user on public.chat_sessions (user_id, updated_at desc, continuation_id desc);
create index chat_sessions_expiry on public.chat_sessions (expires_at) where expires_at is not null;

create table public.chat_messages (
  id           uuid        primary key,                        -- of a prompt: the turn's own id. Made by the client
  session_id   uuid        not null references public.chat_sessions (id) on delete cascade,
  turn_id      uuid        not null,
  turn_seq     bigint      not null,                           -- the turn's place: 1, 2, 3 … Order by this, not by time
  part         smallint    not null check (part in (0, 1)),    -- 0 the prompt, 1 the answer
  deferred     boolean     not null default false,             -- accepted later than it took place
  tokens       integer     not null default 0,                 -- on the answer: of the whole turn
  role         text        not null,
  content      text        not null,                           -- readable; NUL and lone surrogates as U+FFFD
  body         text,                                           -- the exact form: ASCII JSON, which nothing here reads
  created_at   timestamptz not null default now(),
  metadata     jsonb,                                          -- readable; the exact form is in body
  user_id      text        collate "C" not null,               -- the session's: so that row security needs no join
  tool         text,
  digest       text,                                           -- of what the client sent: the same call, or a misused id?
  outcome      text,
  after_place  bigint,                                         -- of a deferred turn: the last place its writer knew of
  lease_until  timestamptz,
  words        tsvector    generated always as (to_tsvector('simple', left(content, 100000))) stored,
  unique (session_id, turn_seq, part),
  check (created_at between '0001-01-02Z' and '9999-12-30Z' and (lease_until between '0001-01-02Z' and '9999-12-30Z') is not false),
  check (case part when 0 then outcome is null and tool is not null and digest is not null
                   else role = 'assistant' and outcome in ('answered', 'failed', 'cancelled') end)
);
create index chat_messages_window on public.chat_messages (session_id, turn_seq desc) include (tokens)
  where part = 1 and outcome = 'answered';
create index chat_messages_words on public.chat_messages using gin (words);
create index chat_messages_created_at on public.chat_messages using brin (created_at);

create table public.chat_files (
  session_id  uuid        not null references public.chat_sessions (id) on delete cascade,
  turn_id     uuid        not null,
  version     integer     not null check (version > 0),        -- of this name in this conversation
  size        bigint      not null check (size >= 0),          -- bytes
  user_id     text        collate "C" not null,
  name        text        collate "C" not null,                -- the logical name: what the tool called it
  bucket      text        not null,
  key         text        collate "C" not null,                -- where the file store has the bytes
  sha256      text        not null check (length(sha256) = 64),
  media_type  text        not null,
  created_at  timestamptz not null default now() check (created_at between '0001-01-02Z' and '9999-12-30Z'),
  primary key (session_id, name, version, turn_id)
);
create index chat_files_turn on public.chat_files (turn_id);
create index chat_files_key on public.chat_files (key, user_id, created_at desc);
create index chat_files_of_session on public.chat_files (session_id, created_at desc, name, version desc);
create index chat_files_newest on public.chat_files (user_id, created_at desc, name, version desc);
create index chat_files_versions on public.chat_files (user_id, name, created_at desc, version desc);

-- A planner's estimates are made from everybody's rows, and whoever may run EXPLAIN can ask for them letter by letter. These
-- columns hold what is private, and no query is planned by what is common in them. Functions that look for files by them say
-- "enable_seqscan = off": without estimates, reading a whole table might look cheap.
alter table public.chat_sessions alter column id set statistics 0, alter column continuation_id set statistics 0,
  alter column metadata set statistics 0;
alter table public.chat_messages alter column id set statistics 0, alter column turn_id set statistics 0,
  alter column content set statistics 0, alter column body set statistics 0, alter column metadata set statistics 0,
  alter column digest set statistics 0, alter column words set statistics 0;
alter table public.chat_files alter column turn_id set statistics 0, alter column name set statistics 0,
  alter column key set statistics 0, alter column sha256 set statistics 0;

-- Smaller at the same speed, where the server was built with it.
do $lz4$ begin
  alter table public.chat_messages alter column content set compression lz4, alter column body set compression lz4,
    alter column words set compression lz4;
exception when feature_not_supported or invalid_parameter_value then null;
end $lz4$;

-- ── the adopted rows ─────────────────────────────────────────────────────────────────────────────────────────
do $adopt$
declare
  orphans constant uuid := gen_random_uuid();
  control constant text := '[\u0001-\u001f\u007f-\u009f\u2028\u2029]';
begin
  update adopted_messages m set session_id = orphans
   where not exists (select from adopted_sessions s where s.id = m.session_id);
  if found then
    insert into adopted_sessions (id, continuation_id, n) values (orphans, 'messages-without-a-session', 0);
  end if;
  insert into public.chat_sessions (id, continuation_id, user_id, metadata, created_at, updated_at)
    select id, case when row_number() over (partition by coalesce(nullif(user_id, ''), 'local'), continuation_id
                                            order by updated_at desc nulls last, n desc) = 1
                     and length(continuation_id) between 1 and 200 and continuation_id !~ control then continuation_id
                    else left(regexp_replace(coalesce(continuation_id, ''), control, '', 'g'), 160) || '~' || id end,
           coalesce(nullif(user_id, ''), 'local'), metadata, coalesce(created_at, now()), coalesce(updated_at, created_at, now())
      from adopted_sessions;  -- so no two have one name, and each has one that a client may send
  -- A user's message begins a turn, an assistant's message right after it ends that turn. Whatever else there is, is a turn
  -- by itself: an answer behind an empty prompt, or a prompt without an answer.
  insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, tokens, role, content, created_at, metadata,
                                    user_id, tool, digest, outcome)
    with kept as (
      select m.*, s.id as session, s.user_id, s.created_at as session_created_at
        from adopted_messages m join public.chat_sessions s on s.id = m.session_id
    ), paired as (
      select *, role = 'assistant' and coalesce(lag(role) over (partition by session order by n) = 'user', false) as answers
        from kept
    ), placed as (
      select *, count(*) filter (where not answers) over (partition by session order by n) as place,
             first_value(content) over turn as prompt
        from paired window turn as (partition by session order by n rows between 1 preceding and current row)
    ), ids as (
      select *, case when role = 'assistant' and not answers then gen_random_uuid()
                     else first_value(id) over (partition by session, place order by n) end as turn
        from placed
    )
    select id, session, turn, place, case role when 'assistant' then 1 else 0 end,
           case role when 'assistant' then (octet_length(content) + case when answers then octet_length(prompt) else 0 end + 3) / 4
                     else 0 end,
           role, content, coalesce(created_at, session_created_at), metadata, user_id,
           case role when 'assistant' then null else 'unknown' end, case role when 'assistant' then null else '' end,
           case role when 'assistant' then 'answered' end
      from ids
    union all
    select turn, session, turn, place, 0, 0, 'user', '', coalesce(created_at, session_created_at), null, user_id, 'unknown', '', null
      from ids where role = 'assistant' and not answers;
  if (select count(*) from adopted_messages a join public.chat_messages m on m.id = a.id and m.content = a.content)
     <> (select count(*) from adopted_messages) then
    raise exception 'Not every message could be adopted' using hint = 'Report this; nothing was changed.';
  end if;
  update public.chat_sessions s
     set last_place = newest.place, updated_at = greatest(s.updated_at, newest.at)
    from (select session_id, max(turn_seq) as place, max(created_at) as at from public.chat_messages group by session_id) newest
   where newest.session_id = s.id;
end $adopt$;

-- ── who may see which rows ───────────────────────────────────────────────────────────────────────────────────
-- The principal of a user's token: its subject, worded as middleware/mcp_v2.py words it for the same token.
create function public.chat_subject() returns text
language sql stable security invoker set search_path = pg_catalog, pg_temp as $function$
  select case when claims.sub like 'client:%' or claims.sub like 'subject:%' then 'subject:' || claims.sub
              else nullif(claims.sub, '') end
    from (select nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub') claims (sub)
$function$;

-- The first part of a principal's keys: the principal, or its hash where it has characters that a key should not have.
create function public.chat_tenant(principal text) returns text
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $function$
  select case when principal ~ '^[A-Za-z0-9_-]{1,64}$' and left(principal, 2) <> 'h-' then principal
              else 'h-' || encode(sha256(convert_to(principal, 'UTF8')), 'hex') end
$function$;

-- The owner of the tables, and whoever is a member of that role, sees all. A Supabase user's token sees the rows of its
-- subject: compared as text and not by auth.uid(), since subjects need not be UUIDs. Roles that bypass row security (the
-- service key's) are told whose rows they may touch by the principal that every function takes.
alter table public.chat_sessions enable row level security;
alter table public.chat_messages enable row level security;
alter table public.chat_files enable row level security;
alter table public.perdure_migrations enable row level security;
alter table public.chat_sessions force row level security;
alter table public.chat_messages force row level security;
alter table public.chat_files force row level security;

create policy server on public.chat_sessions to current_user using (true) with check (true);
create policy server on public.chat_messages to current_user using (true) with check (true);
create policy server on public.chat_files to current_user using (true) with check (true);

create policy own on public.chat_sessions using (user_id = (select public.chat_subject()));
create policy own on public.chat_messages using (user_id = (select public.chat_subject()))
  with check (user_id = (select public.chat_subject())
              and exists (select from public.chat_sessions s where s.id = session_id and s.user_id = chat_messages.user_id));
create policy own on public.chat_files using (user_id = (select public.chat_subject()))
  with check (user_id = (select public.chat_subject()) and split_part(key, '/', 1) = public.chat_tenant(user_id)
              and exists (select from public.chat_sessions s where s.id = session_id and s.user_id = chat_files.user_id));

-- Everything is taken back first: older Supabase projects give all to the API roles, TRUNCATE too, which row security does
-- not see. Then each role that exists gets what the functions need.
do $grants$
declare api text;
begin
  -- Whoever may make functions in public can make one that a call of ours fits better. Postgres 15 and newer have this so.
  revoke create on schema public from public;
  revoke all on function public.chat_subject, public.chat_tenant from public;
  revoke all on public.chat_sessions, public.chat_messages, public.chat_files, public.perdure_migrations from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on public.chat_sessions, public.chat_messages, public.chat_files, public.perdure_migrations from %I', api);
    execute format('revoke all on function public.chat_subject, public.chat_tenant from %I', api);
    continue when api = 'anon';
    execute format('grant execute on function public.chat_subject, public.chat_tenant to %I', api);
    execute format('grant select, insert on public.chat_sessions, public.chat_messages, public.chat_files to %I', api);
    execute format('grant update (last_place, continuation_id, updated_at, expires_at) on public.chat_sessions to %I', api);
    continue when api = 'authenticated';
    execute format('grant select on public.perdure_migrations to %I', api);
    execute format('grant delete on public.chat_sessions to %I', api);
  end loop;
end $grants$;

comment on table public.chat_sessions is 'perdure: one row a conversation.';
comment on table public.chat_messages is 'perdure: two rows a turn, the prompt (part 0) and its answer (part 1), in the order of turn_seq.';
comment on table public.chat_files is 'perdure: files that tools gave out. The bytes are in the file store, under key.';
comment on table public.perdure_migrations is 'perdure: which files of sql/postgres/migrations this database has.';

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (1, 'tables', 'c3e84e41626bd28aad0c0426002a48beeb42d8ac569e2e01eda27fc3a73d53ce');
end $migration$;
