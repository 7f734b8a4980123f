"""The demo: the whole way from counts to a report, offline, on simulated cells or on the user's own file.

Trains ``clm_x``, embeds, integrates, annotates a held-out technical batch, translates both ways and evaluates
against the baselines. It calls the public verbs only, so it is also their shortest example. Leaves out: all choices
a user might make; the next steps it prints are where those begin.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncyte import api
from syncyte.data.cells import Cells
from syncyte.data.split import choose_validation
from syncyte.errors import DataError
from syncyte.files import open_data

BATCH_KEYS = ("batch", "donor", "donor_id", "sample", "batch_key", "library", "lane")
LABEL_KEYS = ("cell_type", "celltype", "cell_types", "label", "labels", "annotation", "leiden", "cluster")


def demo(
    data: Any = None, *, out: str | Path = "demo", seed: int = 0, device: str = "auto", quiet: bool = False
) -> Path:
    """Run the demo and write ``report.html``, ``report.json`` and ``result.h5mu`` (or ``.h5ad``) into ``out``.

    Parameters
    ----------
    data
        Path of the user's own cells; None simulates a paired multiome of 3,000 cells.
    out
        Folder; made where it does not exist.
    seed
        Of the simulation and of everything trained.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    begin = time.monotonic()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    say = _Narrator(quiet)
    cells = _simulated(out, seed, say) if data is None else open_data(Path(data))
    batch_key, label_key = _key(cells, BATCH_KEYS), _key(cells, LABEL_KEYS)
    known, held, name = _hold_out(cells, batch_key, seed)
    say(f"{len(cells):,} cells, {' + '.join(cells.modalities)}; held out for scoring: {name} ({len(held):,} cells)")
    say("Training clm_x (preset lite)")
    run = api.train(
        "clm_x",
        known,
        out=out / "run",
        preset="lite",
        batch_key=batch_key,
        label_key=label_key,
        overwrite=True,
        device=device,
        seed=seed,
        quiet=quiet,
    )
    suffix = ".h5mu" if len(cells.modalities) > 1 else ".h5ad"
    _results(run, cells, known, held, out, suffix, batch_key, label_key, seed, say)
    say("Evaluating beside the baselines")
    api.evaluate(run, held, reference=known, out=out, batch_key=batch_key, label_key=label_key, seed=seed, quiet=quiet)
    say(f"Done in {time.monotonic() - begin:.0f} s.")
    _next_steps(out, suffix, cells.modalities, batch_key, label_key, say)
    return out


class _Narrator:
    """Prints what is being done, with the time since the start."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.begin = quiet, time.monotonic()

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(f"[{time.monotonic() - self.begin:4.0f} s] {text}", flush=True)


def _simulated(out: Path, seed: int, say: _Narrator) -> Cells:
    from syncyte.recipes.simulate import simulate

    say("Simulating a paired multiome: 3,000 cells, 3 technical batches, 8 types in a lineage")
    return open_data(simulate(3000, seed))


def _key(cells: Cells, names: Sequence[str]) -> str | None:
    """First column of a usual name that tells cells apart without telling every cell apart."""
    folded = {str(column).lower(): column for column in cells.obs.columns}
    for name in names:
        if name in folded and 1 < cells.obs[folded[name]].nunique() <= max(2, len(cells) // 5):
            return str(folded[name])
    return None


def _hold_out(cells: Cells, batch_key: str | None, seed: int) -> tuple[Cells, Cells, str]:
    if len(cells) < 100:
        raise DataError(f"The demo needs at least 100 cells, these are {len(cells)}.")
    column = cells.obs[batch_key] if batch_key else None
    if column is not None and column.nunique() >= 2:
        sizes = column.astype(str).value_counts()
        last = sorted(sizes.index[sizes <= len(cells) * 0.5])[-1:] or [sizes.index[-1]]
        held = (column.astype(str) == last[0]).to_numpy()
        return cells.take(~held), cells.take(held), f"{batch_key} {last[0]}"
    split = choose_validation(None, len(cells), seed=seed, fraction=0.2)
    return cells.take(split.train), cells.take(split.validation), split.name


def _results(
    run: Any,
    cells: Cells,
    known: Cells,
    held: Cells,
    out: Path,
    suffix: str,
    batch_key: str | None,
    label_key: str | None,
    seed: int,
    say: _Narrator,
) -> None:
    """Everything a user would want in her object, written into one file."""
    target = out / f"result{suffix}"
    say("Embedding all cells")
    api.embed(run, cells, out=target, seed=seed)
    if batch_key is not None:
        say("Integrating technical batches")
        api.integrate(run, target, batch_key=batch_key, out=target, seed=seed, quiet=True)
    if label_key is not None:
        say("Annotating the held-out cells from the others")
        result = api.annotate(
            run, held, reference=known, label_key=label_key, batch_key=batch_key, seed=seed, quiet=True
        )
        from syncyte.tasks.write import write_result_file

        write_result_file(result, target, target)
    pairs = [(a, b) for a in cells.modalities for b in cells.modalities if a != b]
    for source, goal in pairs:
        say(f"Translating {source} to {goal} in the held-out cells")
        api.translate(run, held, source=source, target=goal, out=out / f"{goal}_from_{source}.h5ad", seed=seed)


def _next_steps(
    out: Path, suffix: str, modalities: Sequence[str], batch_key: str | None, label_key: str | None, say: _Narrator
) -> None:
    keys = "".join(f" {flag} {key}" for flag, key in (("--batch-key", batch_key), ("--label-key", label_key)) if key)
    keys = keys or " --batch-key BATCH --label-key CELL_TYPE"
    lines = [
        f"Report:  {out / 'report.html'}",
        f"Result:  {out / f'result{suffix}'}   (obsm: X_syncyte, X_syncyte_integrated; obs: syncyte_...)",
        "Next, with your own cells:",
        f"  syncyte demo --data YOUR{suffix} --out mine",
        f"  syncyte train clm_x YOUR{suffix} --out RUN --preset small{keys}",
        f"  syncyte embed RUN YOUR{suffix} --out OUT{suffix}",
    ]
    if len(modalities) > 1:
        lines.append(
            f"  syncyte translate RUN YOUR{suffix} --from {modalities[0]} --to {modalities[1]} --out PRED.h5ad"
        )
    lines.append("  python: import scanpy as sc; sc.pp.neighbors(adata, use_rep='X_syncyte')")
    for line in lines:
        if not say.quiet:
            print(line)
