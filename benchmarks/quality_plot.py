"""A plot of `quality`: size of the weights against right answers. Needs matplotlib, from the extra `[bench]`.

Boundary: measurements in, one SVG file out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .quality import Measured

PLOT_NAME = "quality.svg"


def write(measured: Measured, results: Path) -> Path:
    """Write quality.svg into the folder `results`: a point for every bundle that answered all tasks, and its name."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    every = measured.qualities[0].accuracy.keys()
    points = [column for column in measured.qualities if column.accuracy.keys() == every]
    # the same measurements give the same file
    with pyplot.rc_context({"svg.hashsalt": "quality", "svg.fonttype": "path", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
        for point in points:
            place = point.nbytes / 1e6, 100 * point.overall
            axes.plot(*place, "o", color="tab:blue")
            axes.annotate(point.name, place, textcoords="offset points", xytext=(5, 4))
        axes.set_xlim(0, 1.25 * max(point.nbytes for point in points) / 1e6)
        axes.set_xlabel("weights, MB")
        axes.set_ylabel("right answers, % (mean of the tasks)")
        axes.margins(y=0.2)
        axes.grid(alpha=0.3)
        figure.savefig(results / PLOT_NAME, metadata={"Date": None})
        pyplot.close(figure)
    return results / PLOT_NAME
