"""Run by Python itself when it starts, in each process that has this folder on its PYTHONPATH: see `cli/run.py`.

It waits until `mcp` is imported, and covers the servers that are made then. The interpreter may be any, one without
perdure too; nothing here may print to stdout or keep a program from starting.
"""

import os
import sys

_SERVER = "_PERDURE_SERVER"
"""The variable by which a process says that it is an MCP server: see `perdure.middleware.autopatch`."""


class _WhenMcpIsImported:
    """Stands before the finders of modules, finds nothing, and sees what is looked for."""

    @classmethod
    def find_spec(cls, name: str, _path: object = None, _target: object = None) -> None:
        if name == "mcp" and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            _cover()


def _cover() -> None:
    try:
        from perdure.middleware.autopatch import cover_servers  # noqa: PLC0415 - only if there is a server at all

        cover_servers()
    except Exception as error:  # noqa: BLE001 - the server runs all the same
        if isinstance(error, ModuleNotFoundError) and error.name == "perdure":
            what = f"perdure is not installed for {sys.executable}, which runs this server: nothing of it is kept."
            remedy = f"{sys.executable} -m pip install perdure"
        else:
            what = f"this server is not covered, and nothing of it is kept: {type(error).__name__}: {error}"
            remedy = f"see whether this works: {sys.executable} -c 'import perdure'"
        sys.stderr.write(f"perdure: {what}\nRemedy: {remedy}\n")


def _was_started_by_a_server() -> bool:
    """Whether this is a program of its own that an MCP server started: that is covered by its own `perdure run`.

    A worker of the server's (`multiprocessing`, as uvicorn has them) is the server itself.
    """
    server = os.environ.get(_SERVER)
    if server is None or server == str(os.getpid()):
        return False
    return not any(word == "--multiprocessing-fork" or "from multiprocessing." in word for word in sys.orig_argv)


def _without_this_folder(paths: list[str]) -> list[str]:
    # Without pathlib, which this would import into every program.
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    return [path for path in paths if os.path.abspath(path) != here]  # noqa: PTH100


def _start() -> None:
    sys.path[:] = _without_this_folder(sys.path)
    if _was_started_by_a_server():
        rest = _without_this_folder(os.environ.get("PYTHONPATH", "").split(os.pathsep))
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
        del os.environ[_SERVER]
        if not rest:
            del os.environ["PYTHONPATH"]
    else:
        sys.meta_path.insert(0, _WhenMcpIsImported)


def _go_on_with_the_one_that_this_shadows() -> None:
    this = sys.modules.pop("sitecustomize")
    try:
        __import__("sitecustomize")  # another one: this folder is not on the path any more
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = this


_start()
_go_on_with_the_one_that_this_shadows()
