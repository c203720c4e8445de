"""One SQLite file that many threads and processes write to in turns, in commits of many at once."""
