"""Write a copy of a tags table with some tags removed and wrong ones added.

python experiments/wrong_tags.py tags.csv wrong.csv --drop 0.1 --add 0.1 --seed 0

Of the T tags in the table, drop · T are removed, and add · T wrong (image, class) pairs are added, all sampled without
replacement. A third column, `wrong`, lists the changes of each image (`-cat;+sofa`).
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask.core.files import atomic_path

Row = tuple[str, frozenset[str]]


def wrong_tags(rows: Sequence[Row], *, drop: float, add: float, seed: int) -> list[tuple[set[str], set[str]]]:
    """The tags to remove from and to add to each image.

    Args:
        rows: image and true tags.
        drop: share of all tags to remove, in [0, 1].
        add: number of pairs to add, as a share of all tags.
        seed: of the random sample.
    """
    classes = sorted({tag for _, tags in rows for tag in tags})
    present = [(row, tag) for row, (_, tags) in enumerate(rows) for tag in sorted(tags)]
    absent = [(row, tag) for row, (_, tags) in enumerate(rows) for tag in classes if tag not in tags]
    generator = np.random.default_rng(seed)
    changes: list[tuple[set[str], set[str]]] = [(set(), set()) for _ in rows]
    for side, pairs, share in ((0, present, drop), (1, absent, add)):
        chosen = generator.choice(len(pairs), size=round(share * len(present)), replace=False)
        for number in chosen:
            row, tag = pairs[number]
            changes[row][side].add(tag)
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument("--add", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    known = parser.parse_args()
    with known.table.open(newline="", encoding="utf-8-sig") as file:
        rows = [(row["image"], frozenset(filter(None, row["tags"].split(";")))) for row in csv.DictReader(file)]
    changes = wrong_tags(rows, drop=known.drop, add=known.add, seed=known.seed)
    with atomic_path(known.out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "tags", "wrong"])
        for (image, tags), (dropped, added) in zip(rows, changes, strict=True):
            mark = [f"-{tag}" for tag in sorted(dropped)] + [f"+{tag}" for tag in sorted(added)]
            writer.writerow([image, ";".join(sorted(tags - dropped | added)), ";".join(mark)])


if __name__ == "__main__":
    main()
