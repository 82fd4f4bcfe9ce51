"""The curves as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

STYLE = {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False, "font.size": 10}


def draw(curves: dict[str, Any], folder: Path) -> None:
    """Write one SVG per curve that was measured."""
    with plt.rc_context(STYLE):
        for name, function in DRAWERS.items():
            if name in curves:
                figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
                function(axes, curves[name])
                figure.savefig(folder / f"{name.split(',')[0].split(':')[0].replace(' ', '-')}.svg")
                plt.close(figure)


def _framing(axes: Any, curve: dict[str, dict[str, float]]) -> None:
    sizes = sorted(next(iter(curve.values())), key=int)
    for size in sizes:
        axes.plot(
            [int(chunk) for chunk in curve],
            [curve[chunk][size] for chunk in curve],
            marker="o",
            label=f"{int(size):,} B lines",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="chunk size, bytes",
        ylabel="ns per byte",
        title="Reading, by chunk and line size",
    )
    axes.legend()


def _pipelining(axes: Any, curve: dict[Any, dict[str, float]]) -> None:
    for contender in next(iter(curve.values())):
        axes.plot(
            [int(depth) for depth in curve], [curve[depth][contender] for depth in curve], marker="o", label=contender
        )
    axes.set(
        xscale="log",
        xlabel="requests in flight",
        ylabel="µs per request",
        ylim=(0, None),
        title="Pipelining, blocking client",
    )
    axes.legend()


def _provisioning(axes: Any, curve: dict[str, dict[str, float]]) -> None:
    names = [name for name in curve if name.endswith("100 steps")]
    positions = range(len(names))
    for shift, (contender, colour) in enumerate((("provision", "tab:blue"), ("one at a time", "tab:orange"))):
        axes.bar(
            [p + shift * 0.4 for p in positions],
            [curve[name][contender] for name in names],
            0.4,
            label=contender,
            color=colour,
        )
    axes.set_xticks([p + 0.2 for p in positions], [name.split(",")[0] for name in names])
    axes.set(yscale="log", xlabel="delay of the link (round trip)", ylabel="ms", title="Provisioning 100 steps")
    axes.legend()


def _fleet(axes: Any, curve: dict[str, dict[Any, dict[str, float]]]) -> None:
    for driver, by_size in curve.items():
        if by_size:
            axes.plot(
                [int(size) for size in by_size],
                [f["requests per second"] for f in by_size.values()],
                marker="o",
                label=driver,
            )
    axes.set(
        xscale="log",
        xlabel="guests in one process",
        ylabel="health reports per second",
        ylim=(0, None),
        title="Polling a fleet",
    )
    axes.legend()


DRAWERS = {
    "framing": _framing,
    "pipelining: µs per request": _pipelining,
    "provisioning over a link with a delay": _provisioning,
    "many guests in one process": _fleet,
}
