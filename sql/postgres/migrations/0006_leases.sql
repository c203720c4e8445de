-- perdure 0006: the leases of running turns are renewed, by the process that runs their tools.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0006 needs 0005' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 5) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0006 needs 0005' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 6) then return; end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Move the leases of turns that have no answer, their ids by principal: {"alice": ["0190…", …], …}. None is moved to an
-- earlier time; what is unknown, has ended or is another principal's stays as it is. Touches no row of chat_sessions.
-- Returns renewed: how many were moved.
create function public.renew_turns(turns json, lease_until timestamptz) returns json
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' set enable_seqscan = off as $function$
#variable_conflict use_column
declare
  whose record;
  moved bigint;
  renewed bigint := 0;
begin
  for whose in select public.chat_principal(g.key) as principal, g.value as ids from json_each(renew_turns.turns) g loop
    with running as (
      select q.id from public.chat_messages q
       where q.id = any (array(select json_array_elements_text(whose.ids)::uuid))
         and q.part = 0 and q.user_id = whose.principal and q.lease_until < renew_turns.lease_until
         and not exists (select from public.chat_messages a
                          where a.session_id = q.session_id and a.turn_seq = q.turn_seq and a.part = 1)
         for no key update of q skip locked  -- somebody renews it or deletes it: to wait for that would help nobody
    )
    update public.chat_messages m set lease_until = renew_turns.lease_until
      from running where m.id = running.id and m.user_id = whose.principal;
    get diagnostics moved = row_count;
    renewed := renewed + moved;
  end loop;
  return json_build_object('renewed', renewed);
end $function$;

do $grants$
declare api text;
begin
  revoke all on function public.renew_turns from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function public.renew_turns from %I', api);
    continue when api = 'anon';
    execute format('grant execute on function public.renew_turns to %I', api);
    execute format('grant update (lease_until) on public.chat_messages to %I', api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
insert into public.perdure_migrations (version, name, checksum) values (6, 'leases', 'c48749e39d75d8796aae1163a576caf86d91810c986261c4a4468652048343bf');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
