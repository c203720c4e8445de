"""What is peculiar to the package fastmcp: collected where it is installed, which is the environment that has it."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("fastmcp") is not None else ["test_*.py"]
