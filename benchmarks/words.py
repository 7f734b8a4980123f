"""Cells and words of a run on held-out cells: typing, wordings, retrieval, descriptions, cells from texts, searches.

    python benchmarks/words.py RUN HELD.h5ad --label-key cell_type --reference TRAIN.h5ad [--same MAP.tsv] [--out O.md]

Every table is that of ``syncyte evaluate``. ``--same`` names the class of labels, for data sets that spell them
differently: two columns, label and class, without a heading; a label that is not in it is its own class. Baselines are
fitted on the reference, which should be what the run was trained on. Nothing is tuned on the held-out cells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.modalities import all_schemas
from syncyte.tasks.compare_words import prepare_test
from syncyte.tasks.evaluate_words import score_all
from syncyte.tasks.trained import load_trained


def main() -> None:
    """Score, print, and write where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--same", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trained = load_trained(options.run, "cpu")
    held, known = opened(options.data), opened(options.reference)
    same = None if options.same is None else read_same(options.same)
    test = prepare_test(trained, held, known, options.label_key, same=same, seed=options.seed)
    lines = [f"# Words: {len(test.truth):,} held-out cells, baselines fitted on {len(test.known):,}", *test.notes]
    print("\n\n".join(lines), flush=True)
    for title, (table, text) in score_all(test).items():
        part = [f"## {title.capitalize()}", text, *([] if table is None else [markdown(table)])]
        print("\n" + "\n\n".join(part), flush=True)
        lines += part
    if options.out is not None:
        options.out.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def opened(path: Path) -> Cells:
    """Cells of a file."""
    return open_cells(path, schemas=all_schemas())


def read_same(path: Path) -> dict[str, str]:
    """Class by label."""
    table = pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    if table.shape[1] != 2:
        raise SystemExit(f"{path} has {table.shape[1]} columns; two are needed, label and class, between tabs.")
    return dict(zip(table[0], table[1], strict=True))


def markdown(table: pd.DataFrame) -> str:
    """The table, numbers with four decimals at most."""
    rows = [[str(table.index.name or ""), *map(str, table.columns)], ["---"] * (table.shape[1] + 1)]
    rows += [[str(name), *map(shown, row)] for name, row in zip(table.index, table.to_numpy(dtype=object), strict=True)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def shown(value: object) -> str:
    """A number or text in a cell."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"
    return str(value)


if __name__ == "__main__":
    main()
