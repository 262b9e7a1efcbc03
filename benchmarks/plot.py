"""Draws what `benchmarks.growth` measured: seconds against size, both axes logarithmic.

python -m benchmarks.plot benchmarks/results.jsonl docs/growth.png
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def newest(results: Path) -> dict[str, dict[int, float]]:
    """Returns the seconds by size of each kind of growth, as they were measured last."""
    entries = map(json.loads, results.read_text().splitlines())
    return {
        entry["work"]: {int(size): seconds for size, seconds in entry["figures"].items()}
        for entry in entries
        if entry["benchmark"] == "growth"
    }


def main(results: str, picture: str) -> None:
    """Writes the picture: one panel for each kind of growth."""
    growths = newest(Path(results))
    _, panels = plt.subplots(1, len(growths), figsize=(3.2 * len(growths), 3), sharey=True)
    for panel, (what, seconds) in zip(panels, growths.items(), strict=True):
        panel.loglog(list(seconds), list(seconds.values()), "o-")
        panel.set_xlabel(what)
        panel.set_xticks(list(seconds), [f"{size:,}" for size in seconds], rotation=30)
        panel.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        panel.minorticks_off()
        panel.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("seconds, less imports")
    plt.tight_layout()
    plt.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
