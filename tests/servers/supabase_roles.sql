-- The roles of a Supabase project, which are the whole cluster's. Run by the superuser.
-- Hosted projects call the owner `postgres`, which is no superuser there; on a plain cluster that name is taken.
do $roles$ begin
  if not exists (select from pg_roles where rolname = 'anon') then
    create role anon nologin noinherit;
    create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls;
    create role authenticator login noinherit nosuperuser;
    create role supabase_storage_admin login noinherit createrole;
    create role owner login nosuperuser createdb createrole bypassrls;
    grant anon, authenticated, service_role to authenticator, owner;
    grant authenticator to supabase_storage_admin;
  end if;
end $roles$;
