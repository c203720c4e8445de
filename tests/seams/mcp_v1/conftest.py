"""What only version 1 of the SDK does: run in its environment (`make test`), and nowhere else."""

from importlib.metadata import version

collect_ignore_glob = [] if version("mcp").startswith("1.") else ["test_*.py"]
