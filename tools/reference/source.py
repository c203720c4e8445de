"""What stands in the source beside a name: the string after an assignment, as Sphinx and pydantic read it."""

import ast
import inspect
import textwrap
from types import ModuleType

__all__ = ["cell", "docs_of", "first_paragraph", "table"]


def docs_of(thing: type | ModuleType) -> dict[str, str]:
    """The docstring of each attribute, in the order in which they stand; empty where there is none."""
    body = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    if isinstance(thing, type):
        [defined] = body
        assert isinstance(defined, ast.ClassDef)
        body = defined.body
    found: dict[str, str] = {}
    for statement, after in zip(body, [*body[1:], None], strict=True):
        match statement:
            case ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]):
                match after:
                    case ast.Expr(ast.Constant(str() as text)):
                        found[name] = " ".join(inspect.cleandoc(text).split())
                    case _:
                        found[name] = ""
    return found


def first_paragraph(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
