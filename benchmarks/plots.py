"""Draws a comparison as an SVG that stands by itself: lines on logarithmic scales, or bars; by day and by night."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.harness import Result

__all__ = ["write_plots"]

_WIDTH, _LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 960, 70, 56, 480, 340
_ROW = 30
"""Height of a bar with its gap."""

# Okabe and Ito: told apart by whoever sees colours differently. The first is ours.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#5f4b8b")

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">
<style>
  text {{ font: 13px system-ui, sans-serif; fill: #24292f }} .title {{ font-size: 15px; font-weight: 600 }}
  .small {{ font-size: 11px; fill: #57606a }} .ours {{ font-weight: 600 }} .grid {{ stroke: #d0d7de; stroke-width: 1 }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e6edf3 }} .small {{ fill: #9198a1 }} .grid {{ stroke: #3d444d }}
  }}
</style>
<text class="title" x="16" y="28">{title}</text>
"""


def write_plots(folder: Path, results: Sequence[Result], source: str) -> list[Path]:
    """One file for each result that is to be drawn. `source` stands below: where the figures come from."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for result in results:
        if (plot := result.comparison.plot) is None:
            continue
        medians = {line.name: line.median for line in result.lines}
        lines = {legend: [(x, medians[name]) for x, name in points] for legend, points in plot.lines.items()}
        growing = any(len(points) > 1 for points in lines.values())
        parts = _lines(lines, result.comparison.unit) if growing else _bars(lines, result.comparison.unit)
        height = _TOP + (_PLOT_HEIGHT + 66 if growing else _ROW * len(lines) + 34)
        drawn = [
            _HEAD.format(width=_WIDTH, height=height, title=escape(plot.title)),
            *parts,
            f'<text class="small" x="16" y="{height - 10}">{escape(source)}</text>\n</svg>\n',
        ]
        path = folder / f"{plot.file}.svg"
        path.write_text("".join(drawn), encoding="utf-8")
        written.append(path)
    return written


def _lines(lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> Iterator[str]:
    points = [point for series in lines.values() for point in series]
    across = _Axis([x for x, _ in points], _LEFT, _LEFT + _PLOT_WIDTH, margin=1.15)
    up = _Axis([y for _, y in points], _TOP + _PLOT_HEIGHT, _TOP, margin=1.25)
    for tick in up.ticks():
        y = up.at(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>\n'
        yield f'<text class="small" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_figure(tick)} {unit}</text>\n'
    for x in sorted({x for x, _ in points}):
        where = across.at(x)
        yield f'<line class="grid" x1="{where:.1f}" x2="{where:.1f}" y1="{_TOP}" y2="{_TOP + _PLOT_HEIGHT}"/>\n'
        below = _TOP + _PLOT_HEIGHT + 18
        yield f'<text class="small" x="{where:.1f}" y="{below}" text-anchor="middle">{x:,.0f} messages</text>\n'
    legends = _apart([(name, up.at(series[-1][1])) for name, series in lines.items()])
    for number, (name, series) in enumerate(lines.items()):
        colour, width = _COLOURS[number % len(_COLOURS)], 3.5 if number == 0 else 2
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in series)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>\n'
        for x, y in series:
            yield f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3.5" fill="{colour}"/>\n'
        end_x, end_y = across.at(series[-1][0]), up.at(series[-1][1])
        legend_x, legend_y = _LEFT + _PLOT_WIDTH + 26, legends[name]
        yield (
            f'<line x1="{end_x + 5:.1f}" y1="{end_y:.1f}" x2="{legend_x - 4}" y2="{legend_y:.1f}" stroke="{colour}"'
            ' stroke-width="1" stroke-dasharray="2 3"/>\n'
        )
        ours = ' class="ours"' if number == 0 else ""
        text = f"{_figure(series[-1][1])} {unit}  {name}"
        yield f'<text{ours} x="{legend_x}" y="{legend_y + 4:.1f}">{escape(text)}</text>\n'


def _bars(lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> Iterator[str]:
    longest = max(points[0][1] for points in lines.values())
    name_width = 300
    for number, (name, points) in enumerate(lines.items()):
        y, value = _TOP + number * _ROW, points[0][1]
        width = max(2.0, value / longest * (_WIDTH - name_width - 150))
        ours = ' class="ours"' if number == 0 else ""
        yield f'<text{ours} x="{name_width - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>\n'
        yield (
            f'<rect x="{name_width}" y="{y}" width="{width:.1f}" height="{_ROW - 8}" rx="2"'
            f' fill="{_COLOURS[number % len(_COLOURS)]}"/>\n'
        )
        yield f'<text{ours} x="{name_width + width + 8:.1f}" y="{y + 16}">{_figure(value)} {unit}</text>\n'


class _Axis:
    """Logarithmic, from `start` to `end` on the drawing."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, margin: float) -> None:
        self._low, self._high = min(values) / margin, max(values) * margin
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = math.log(value / self._low) / math.log(self._high / self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        found = [tick for tick in found if self._low <= tick <= self._high]
        return found if len(found) <= 9 else [tick for tick in found if f"{tick:e}".startswith("1")]


def _apart(legends: Sequence[tuple[str, float]], least: float = 19) -> dict[str, float]:
    """Heights at which the legends stand, near their lines and never over one another."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for name, wanted in sorted(legends, key=lambda legend: legend[1]):
        lowest = max(wanted, lowest + least)
        placed[name] = lowest
    below = lowest - (_TOP + _PLOT_HEIGHT)
    return {name: y - max(0.0, below) for name, y in placed.items()}


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
