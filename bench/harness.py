"""Pairs of measurements in one run.

Machines are noisy, and slow down and speed up while one measures. So nothing here is reported as a time alone:
every figure is a ratio between things that were measured in turns, a few milliseconds apart, and the median of
many such turns.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

#: Seconds that one sample should last, so that the clock's own resolution does not matter.
SAMPLE = 0.01


@attrs.frozen
class Figure:
    """What one contender took: microseconds per round (median), and its ratio to the first contender."""

    contender: str
    micros: float
    ratio: float
    low: float
    high: float


@attrs.frozen
class Comparison:
    """One row of a table: several contenders at the same work. The first is what the others are compared with."""

    title: str
    figures: tuple[Figure, ...]
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the last contender stays within the target; None where there is none."""
        return None if self.target is None else self.figures[-1].ratio <= self.target

    def row(self) -> str:
        """The row as text."""
        base, *others = self.figures
        cells = [f"{base.contender} {base.micros:.2f} µs"]
        cells += [f"{f.contender} ×{f.ratio:.2f} ({f.low:.2f}-{f.high:.2f})" for f in others]
        verdict = {None: "", True: f"  ≤ {self.target} ok", False: f"  ≤ {self.target} MISSED"}[self.met]
        return f"{self.title:38} {' | '.join(cells)}{verdict}"


def compare(
    title: str, contenders: Mapping[str, Callable[[], Any]], *, target: float | None = None, turns: int = 15
) -> Comparison:
    """Time the contenders in turns, `turns` samples each."""
    numbers = {name: _calibrate(function) for name, function in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(turns):
            for name, function in contenders.items():
                samples[name].append(_time(function, numbers[name]))
    finally:
        gc.enable()
    return _summary(title, samples, target)


async def compare_async(
    title: str,
    contenders: Mapping[str, Callable[[], Awaitable[Any]]],
    *,
    target: float | None = None,
    turns: int = 15,
    rounds: int = 100,
) -> Comparison:
    """`compare` for coroutine functions, `rounds` calls a sample."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for function in contenders.values():
        await function()
    for _ in range(turns):
        for name, function in contenders.items():
            start = time.perf_counter()
            for _ in range(rounds):
                await function()
            samples[name].append((time.perf_counter() - start) / rounds)
    return _summary(title, samples, target)


def _calibrate(function: Callable[[], Any]) -> int:
    number = 1
    while (took := _time(function, number) * number) < SAMPLE / 4:
        number *= 4
    return max(1, int(number * SAMPLE / took))


def _time(function: Callable[[], Any], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        function()
    return (time.perf_counter() - start) / number


def _summary(title: str, samples: dict[str, list[float]], target: float | None) -> Comparison:
    base = next(iter(samples.values()))
    figures = []
    for name, times in samples.items():
        # Turn by turn: what slowed one contender down slowed its neighbour down, too.
        ratios = [mine / theirs for mine, theirs in zip(times, base, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        figures.append(Figure(name, statistics.median(times) * 1e6, statistics.median(ratios), low, high))
    return Comparison(title, tuple(figures), target)


@attrs.define
class Report:
    """Everything that one run measured, as tables for people and as JSON for programs."""

    sections: dict[str, list[Comparison]] = attrs.field(factory=dict)
    curves: dict[str, Any] = attrs.field(factory=dict)

    def add(self, section: str, comparison: Comparison) -> None:
        """Keep a comparison, and show it."""
        if section not in self.sections:
            self.sections[section] = []
            print(f"\n== {section}", flush=True)
        self.sections[section].append(comparison)
        print(comparison.row(), flush=True)

    def note(self, section: str, text: str) -> None:
        """Show a line that is no comparison."""
        if section not in self.sections:
            self.sections[section] = []
            print(f"\n== {section}", flush=True)
        print(text, flush=True)

    def write(self, folder: Path) -> None:
        """Write `results.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "sections": {
                name: [attrs.asdict(comparison) for comparison in rows] for name, rows in self.sections.items()
            },
            "curves": self.curves,
        }
        (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")

    @property
    def missed(self) -> list[str]:
        """The titles of the targets that were missed."""
        return [row.title for rows in self.sections.values() for row in rows if row.met is False]
