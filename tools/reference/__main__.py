"""`python -m tools.reference` writes all pages. The one about SQL asks a Postgres of its own, migrated for it."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from servers.postgres_cluster import PostgresCluster  # noqa: E402 - the path has to be there first

from perdure.middleware.persistence.migrations import postgres as migrations  # noqa: E402
from tools.reference.pages import FOLDER, PAGES, sql_page  # noqa: E402


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with PostgresCluster() as cluster:
        url = cluster.url(cluster.create_database("reference"))
        migrations.apply(url, "reference", lambda _: None)
        pages = {name: make() for name, make in PAGES.items()} | {"sql": sql_page(url)}
    for name, text in pages.items():
        (FOLDER / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
