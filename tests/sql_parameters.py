"""Values for the parameters of a statement in `sql/`: by name, or by number in those that each turn takes."""

import re

__all__ = ["parameters_of"]


def parameters_of(query: str, value: object = None) -> dict[str, object] | list[object]:
    """`value` for each."""
    if numbers := re.findall(r"\?(\d+)", query):
        return [value] * max(map(int, numbers))
    return dict.fromkeys(re.findall(r":(\w+)", query), value)
