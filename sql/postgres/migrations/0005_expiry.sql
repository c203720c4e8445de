-- perdure 0005: a conversation is listed with its end, so that what moves it elsewhere can take that along.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0005 needs 0004' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 4) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0005 needs 0004' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 5) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- As list_conversations, whose answers stay as they are for whoever calls it; and expires_at with each (null: never).
create function public.list_conversations_with_ends(
  user_id text default null, continuation_id text default null, before_at timestamptz default null,
  before_user text default null, before_id text default null, max_lines integer default 100, at timestamptz default null
) returns json
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
  asked constant json := public.list_conversations(
    list_conversations_with_ends.user_id, list_conversations_with_ends.continuation_id,
    list_conversations_with_ends.before_at, list_conversations_with_ends.before_user, list_conversations_with_ends.before_id,
    list_conversations_with_ends.max_lines, list_conversations_with_ends.at);
  lines json;
begin
  select json_agg(l.line::jsonb || jsonb_build_object('expires_at', x.expires_at) order by l.place) into lines
    from json_array_elements(asked -> 'conversations') with ordinality l (line, place)
    cross join lateral (select s.expires_at from public.chat_sessions s
                         where s.continuation_id = l.line ->> 'continuation_id' and s.user_id = l.line ->> 'user_id'
                         limit 1) x;
  return json_build_object('conversations', coalesce(lines, '[]'::json));
end $function$;

do $grants$
declare api text;
begin
  revoke all on function public.list_conversations_with_ends from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function public.list_conversations_with_ends from %I', api);
    continue when api = 'anon';
    execute format('grant execute on function public.list_conversations_with_ends to %I', api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (5, 'expiry', '5c5a2eedc613da5bd5b9c8213bd9ebebdee6d54ee2dde4f9a3ec3e0699da046d');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
