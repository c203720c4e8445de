"""Shows what was found: to people as tables, to programs as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.harness import ALARM, Comparison, Goal, Line, Result
from benchmarks.machine import Machine

__all__ = ["show", "write_json"]


def show(console: Console, result: Result) -> None:
    comparison = result.comparison
    table = Table(
        title=comparison.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column(comparison.unit, justify="right")
    if not comparison.more_is_better:
        table.add_column("added", justify="right")
    table.add_column("÷ floor", justify="right")
    table.add_column("quartiles", justify="right", style="dim")
    if comparison.reference:
        table.add_column(f"÷ {comparison.reference}", justify="right")
    has_goals = any(line.goal for line in result.lines)
    if has_goals:
        table.add_column("goal", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    for line in result.lines:
        table.add_row(
            line.name if line.floor else f"[dim]{line.name}[/dim]",
            _figure(line.median),
            *([] if comparison.more_is_better else [_signed(line.added)]),
            _ratio(line.ratio),
            _quartiles(line),
            *([_ratio(line.to_reference)] if comparison.reference else []),
            *(_goal(line, comparison) if has_goals else []),
        )
    console.print(table)
    for note in result.notes:
        console.print(f"  {note}", style="red" if note.startswith(ALARM) else "dim", highlight=False, soft_wrap=True)
    console.print()


def write_json(path: Path, machine: Machine, results: Sequence[Result]) -> None:
    content = {"machine": dataclasses.asdict(machine), "comparisons": [_as_json(result) for result in results]}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_json(result: Result) -> dict[str, Any]:
    comparison = result.comparison
    return {
        "name": comparison.name,
        "title": comparison.title,
        "unit": comparison.unit,
        "reference": comparison.reference,
        "notes": result.notes,
        "lines": [
            {
                "name": line.name,
                "median": line.median,
                "floor": line.floor,
                "added": line.added,
                "ratio": line.ratio,
                "ratio_quartiles": line.ratio_quartiles,
                "ratio_to_reference": line.to_reference,
                "goal": dataclasses.asdict(line.goal)
                | {"met": line.goal.is_met(line, more_is_better=comparison.more_is_better)}
                if line.goal
                else None,
                "rounds": line.figures,
            }
            for line in result.lines
        ],
    }


def _figure(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    return f"{'−' if value < 0 else '+'}{_figure(abs(value))}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} x"


def _quartiles(line: Line) -> str:
    quartiles = line.ratio_quartiles
    return "" if quartiles is None else f"{quartiles[0]:.2f} – {quartiles[1]:.2f}"


def _goal(line: Line, comparison: Comparison) -> tuple[str, str]:
    if line.goal is None:
        return "", ""
    met = line.goal.is_met(line, more_is_better=comparison.more_is_better)
    return _wanted(line.goal, comparison), "[green]met[/green]" if met else "[red]missed[/red]"


def _wanted(goal: Goal, comparison: Comparison) -> str:
    sign = "≥" if comparison.more_is_better else "≤"
    match goal.quantity:
        case "figure":
            return f"{sign} {goal.limit:g} {comparison.unit}"
        case "added":
            return f"{sign} +{goal.limit:g} {comparison.unit}"
        case "ratio":
            return f"{sign} {goal.limit:.3g} x floor"
        case "to_reference":
            return f"{sign} {goal.limit:.3g} x {comparison.reference}"
