-- What a Supabase project's database has besides the tables of storage. Run by the superuser, in a database of `owner`.
alter schema public owner to owner;
grant usage on schema public to anon, authenticated, service_role;
create schema extensions;
grant usage on schema extensions to anon, authenticated, service_role, owner;
create schema storage authorization supabase_storage_admin;
grant usage on schema storage to anon, authenticated, service_role, owner;

-- Every change of the schema is told to PostgREST, as hosted databases do.
create function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql as $function$
begin
  perform pg_notify('pgrst', 'reload schema');
end $function$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_ddl_watch();
