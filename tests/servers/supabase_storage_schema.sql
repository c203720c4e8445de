-- The storage schema as storage-api 1.70 leaves it, reduced to what the stand-in reads and what policies refer to.
-- Run by supabase_storage_admin, which owns it.
create table storage.buckets (
  id                  text        primary key,
  name                text        not null unique,
  owner               uuid,
  owner_id            text,
  public              boolean     default false,
  avif_autodetection  boolean     default false,
  file_size_limit     bigint,
  allowed_mime_types  text[],
  type                text        not null default 'STANDARD',
  created_at          timestamptz default now(),
  updated_at          timestamptz default now()
);
create table storage.objects (
  id                uuid        primary key default gen_random_uuid(),
  bucket_id         text        references storage.buckets (id),
  name              text,
  owner             uuid,
  owner_id          text,
  version           text,
  metadata          jsonb,
  user_metadata     jsonb,
  path_tokens       text[]      generated always as (string_to_array(name, '/')) stored,
  created_at        timestamptz default now(),
  updated_at        timestamptz default now(),
  last_accessed_at  timestamptz default now()
);
create unique index bucketid_objname on storage.objects (bucket_id, name);
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;

create function storage.touch_updated_at() returns trigger language plpgsql as $function$
begin
  new.updated_at := now();
  return new;
end $function$;
create trigger update_objects_updated_at before update on storage.objects
  for each row execute function storage.touch_updated_at();

-- Rows may be deleted through the API only, which says so in a setting.
create function storage.protect_delete() returns trigger language plpgsql as $function$
begin
  if coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true' then
    raise exception 'Direct deletion from storage tables is not allowed. Use the Storage API instead.'
      using errcode = '42501', hint = 'This prevents accidental data loss from orphaned objects.';
  end if;
  return null;
end $function$;
create trigger protect_objects_delete before delete on storage.objects
  for each statement execute function storage.protect_delete();
create trigger protect_buckets_delete before delete on storage.buckets
  for each statement execute function storage.protect_delete();

-- What is right below a prefix: objects by their last name, and folders, which have no id.
create function storage.search(
  prefix text, bucketname text, limits int default 100, levels int default 1, offsets int default 0,
  search text default '', sortcolumn text default 'name', sortorder text default 'asc'
) returns table (
  name text, id uuid, updated_at timestamptz, created_at timestamptz, last_accessed_at timestamptz, metadata jsonb
) language plpgsql stable security invoker as $function$
#variable_conflict use_column
begin
  return query execute format($query$
    with below as (
      select substr(o.name, length($1) + 1) as rest, o.* from storage.objects o
       where o.bucket_id = $2 and starts_with(lower(o.name), lower($1 || $5))
    ), found as (
      select split_part(rest, '/', 1) as name, null::uuid as id, null::timestamptz as updated_at,
             null::timestamptz as created_at, null::timestamptz as last_accessed_at, null::jsonb as metadata
        from below where position('/' in rest) > 0 group by 1
      union all
      select rest, id, updated_at, created_at, last_accessed_at, metadata from below where position('/' in rest) = 0
    )
    select name, id, updated_at, created_at, last_accessed_at, metadata from found
     order by id is not null and %2$L <> 'name', %1$I %3$s, name limit least($3, 1500) offset $4$query$,
    case when sortcolumn in ('name', 'updated_at', 'created_at', 'last_accessed_at') then sortcolumn else 'name' end,
    sortcolumn, case when lower(sortorder) = 'desc' then 'desc' else 'asc' end)
    using prefix, bucketname, limits, offsets, search;
end $function$;

grant all on storage.buckets, storage.objects to anon, authenticated, service_role;
grant all on storage.buckets, storage.objects to owner with grant option;
grant execute on all functions in schema storage to anon, authenticated, service_role, owner;
