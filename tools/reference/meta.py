"""docs/reference/meta.md, from `perdure.middleware.meta_keys` and `perdure.errors`."""

import inspect

from perdure import errors
from perdure.middleware import meta_keys
from perdure.middleware.idempotency import CallRefused
from tools.reference.source import docs_of, first_paragraph, table

__all__ = ["meta_page"]

_NEVER_IN_RESULTS = {
    "error", "store_error",  # their kinds are
    "decorator_misplaced",  # raised where the server is written
    "question_invalid", "fork_refused",  # of the command line
    "file_missing",  # the call is answered with an error
}  # fmt: skip


def meta_page() -> str:
    keys = [
        [f"`{getattr(meta_keys, name)}`", text]
        for name, text in docs_of(meta_keys).items()
        if name in meta_keys.__all__
    ]
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and "code" in vars(kind)]
    faults = [
        [f"`{kind.code}`", first_paragraph(kind.__doc__)]
        for kind in [*kinds, CallRefused]
        if kind.code not in _NEVER_IN_RESULTS
    ]
    faults.append(["`internal_error`", "perdure itself failed: please report it, with what stderr says."])
    return f"""\
# Keys in `_meta`

What perdure adds to a call and to its result, all of it under `perdure/`; and what a fault's code means.

<!-- Made by `make reference`: change src/perdure/middleware/meta_keys.py and src/perdure/errors.py instead. -->

{table(["key", "what it is"], keys)}
## Faults

A fault changes no tool's answer: it is named under `perdure/fault`, and stderr has the details and the remedy.

{table(["code", "what happened"], faults)}"""
