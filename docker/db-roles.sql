-- Passwords of the roles by which PostgREST and storage-api connect. The image makes the roles without.
\getenv authenticator_password AUTHENTICATOR_PASSWORD
\getenv storage_admin_password STORAGE_ADMIN_PASSWORD
alter role authenticator with password :'authenticator_password';
alter role supabase_storage_admin with password :'storage_admin_password';
