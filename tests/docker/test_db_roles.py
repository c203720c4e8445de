"""docker/db-roles.sql, run as the database's image runs it: the roles log in with the passwords of .env."""

import os
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from docker.compose_file import REPOSITORY, environment_of, services
from servers.postgres_cluster import PostgresCluster

ROLES = "./docker/db-roles.sql"
VALUES = {"POSTGRES_PASSWORD": "p", "AUTHENTICATOR_PASSWORD": "it's 'quoted'", "STORAGE_ADMIN_PASSWORD": "other"}


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster(fsync=False) as cluster:
        for role in ("authenticator", "supabase_storage_admin"):
            cluster.execute(f"create role {role} login noinherit")
        yield cluster


def test_each_role_gets_the_password_that_its_service_uses(cluster: PostgresCluster) -> None:
    command = [
        cluster.binaries / "psql",
        "--set=ON_ERROR_STOP=1",
        "--no-password",
        "--no-psqlrc",
        "--file",
        ROLES,
        cluster.url(),
    ]
    told = environment_of("db", VALUES)
    ran = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **told}, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    for role, name in (
        ("authenticator", "AUTHENTICATOR_PASSWORD"),
        ("supabase_storage_admin", "STORAGE_ADMIN_PASSWORD"),
    ):
        psycopg.connect(cluster.url(user=role, password=VALUES[name])).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(cluster.url(user=role, password="p"))


def test_the_image_runs_it_after_its_own_scripts_which_make_the_roles() -> None:
    (mounted,) = (volume for volume in services()["db"]["volumes"] if volume.startswith(ROLES))
    name = mounted.split(":")[1].rpartition("/")

    assert name[0] == "/docker-entrypoint-initdb.d/init-scripts"
    assert sorted([name[2], "00-schema.sql", "00000000000003-post-setup.sql"])[-1] == name[2]


def test_services_connect_as_these_roles() -> None:
    values = {**VALUES, "JWT_SECRET": "", "ANON_KEY": "", "SERVICE_ROLE_KEY": "", "AUTHENTICATOR_PASSWORD": "one"}

    assert environment_of("rest", values)["PGRST_DB_URI"] == "postgres://authenticator:one@db:5432/postgres"
    storage = environment_of("storage", values)["DATABASE_URL"]
    assert storage == "postgres://supabase_storage_admin:other@db:5432/postgres"
