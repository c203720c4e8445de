-- perdure 0004: the private bucket of Supabase Storage, and who may see which of its objects.
-- Without a storage schema there is nothing to do now; `perdure migrate` looks again every time it runs.
do $migration$ begin
set local lock_timeout = '15s';
perform pg_advisory_xact_lock(7305437215021183092);
if to_regclass('public.perdure_migrations') is null then
  raise exception 'perdure 0004 needs 0003' using hint = 'Run the files of sql/postgres/migrations in their order.';
elsif not exists (select from public.perdure_migrations where version = 3) then  -- unlike OR, not looked at without the table
  raise exception 'perdure 0004 needs 0003' using hint = 'Run the files of sql/postgres/migrations in their order.';
end if;
if exists (select from public.perdure_migrations where version = 4) then
  raise notice '%', array_to_string(public.chat_prepare_storage(), E'\n');
  return;
end if;
-- ── statements ──────────────────────────────────────────────────────────────────────────────────────────────

-- Make the bucket and its policies where the storage schema is there and lets us. Returns what was found or done, a line each.
create function public.chat_prepare_storage() returns text[]
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '15s' as $function$
declare
  said text[] := '{}';
  is_public boolean;
begin
  perform pg_advisory_xact_lock(7305437215021183092);  -- two at once would both make the policies
  -- By the catalog: to_regclass refuses whoever may not use the schema.
  if not exists (select from pg_tables where schemaname = 'storage' and tablename = 'buckets') then
    return array['No Supabase Storage in this database: no bucket is needed.'];
  end if;
  begin
    execute $$insert into storage.buckets (id, name, public, file_size_limit)
              values ('mcp-files', 'mcp-files', false, 52428800) on conflict (id) do nothing$$;
    execute $$select public from storage.buckets where id = 'mcp-files'$$ into is_public;
    said := said || case when is_public
      then 'The bucket mcp-files is public: anybody may read it. Make it private in the dashboard, under Storage.'
      else 'The bucket mcp-files is there and private.' end;
  exception when insufficient_privilege or undefined_column then
    said := said || ('The bucket mcp-files could not be made (' || sqlerrm || '). Make a private one in the dashboard, under Storage.');
  end;
  begin
    execute 'drop policy if exists perdure_read on storage.objects';
    execute 'drop policy if exists perdure_add on storage.objects';
    execute $$create policy perdure_read on storage.objects for select to authenticated using (
                bucket_id = 'mcp-files' and split_part(name, '/', 1) =
                  (select public.chat_tenant(public.chat_subject())))$$;
    execute $$create policy perdure_add on storage.objects for insert to authenticated with check (
                bucket_id = 'mcp-files' and split_part(name, '/', 1) =
                  (select public.chat_tenant(public.chat_subject())))$$;
    said := said || 'Users with a token of their own reach the objects under their own prefix.'::text;
  exception when insufficient_privilege or undefined_object or undefined_table then
    said := said || ('Users with a token of their own reach no objects (' || sqlerrm || '). The service key is not affected.');
  end;
  return said;
end $function$;

do $grants$
declare api text;
begin
  revoke all on function public.chat_prepare_storage from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    continue when not exists (select from pg_roles where rolname = api);
    execute format('revoke all on function public.chat_prepare_storage from %I', api);
  end loop;
end $grants$;

-- ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────
raise notice '%', array_to_string(public.chat_prepare_storage(), E'\n');
insert into public.perdure_migrations (version, name, checksum) values (4, 'storage', '6d7f1464e3aa8bbd667d78621fe0e368a929a18525c2b08a749d486dcca3afb8');
perform pg_notify('pgrst', 'reload schema');
end $migration$;
