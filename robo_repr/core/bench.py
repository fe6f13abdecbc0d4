"""What the bench scripts share: their arguments, medians over pairs of measurements, one table, one JSON file."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

LEAST_PAIRS = 5


def parser(doc: str | None, pairs: int) -> argparse.ArgumentParser:
    """Takes --pairs and --json; `doc` is the script's docstring. Let `parse` read the command line."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pairs", type=int, default=pairs, help=f"measurements of each side, at least {LEAST_PAIRS}")
    made.add_argument("--json", type=Path, help="write the figures there")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's arguments; refuses too few pairs."""
    args = made.parse_args()
    if args.pairs < LEAST_PAIRS:
        made.error(f"--pairs {args.pairs}: at least {LEAST_PAIRS} pairs make a median and a spread")
    return args


class Bench:
    """Figures of our side and the peer's, measured alternately on one machine.

    Args:
        pairs: how many measurements of each side.
        more: further fields of the JSON file.
    """

    def __init__(self, pairs: int, **more: object):
        self.result: dict = {"ratio": {}, "ours": {}, "peer": {}, "n": pairs, "spread": {}, "machine": machine(), **more}
        self._units: dict[str, str] = {}

    def add(self, name: str, unit: str, pairs: Sequence[tuple[float, float]], less_is_better: bool = False) -> None:
        """One comparison: (ours, the peer's) of each pair. The ratio is above 1 where ours is better."""
        ratios = [theirs / mine if less_is_better else mine / theirs for mine, theirs in pairs]
        self.result["ratio"][name], self.result["spread"][name] = statistics.median(ratios), [min(ratios), max(ratios)]
        self.result["ours"][name], self.result["peer"][name] = (statistics.median(side) for side in zip(*pairs, strict=True))
        self._units[name] = unit

    def finish(self, json_file: Path | None) -> None:
        """Prints the table and writes the file."""
        result = self.result
        print(f"{'median of ' + str(result['n']) + ' pairs':50} {'ours':>10} {'peer':>10} {'ratio':>8}   lowest and highest")
        for name, unit in self._units.items():
            low, high = result["spread"][name]
            figures = f"{result['ours'][name]:10.4g} {result['peer'][name]:10.4g} {result['ratio'][name]:7.3g}x   {low:.3g}x to {high:.3g}x"
            print(f"{f'{name} ({unit})':50} {figures}")
        print(f"on {result['machine']}")
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """The machine that figures come from."""
    return f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.platform()}"
