"""Train a gene network whose tokens are adapted to DNA (or to any vector of a gene): network, sequence side, adapter.

Left out: what all recipes do (``train``), the parts (``train_genes``, ``dna_targets``, ``models.dna_encoder``).
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.split import Split
from syncyte.errors import ConfigError, DataError
from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import match_starts
from syncyte.genome.tss import covered
from syncyte.models.adapter import fit_adapter
from syncyte.models.gene_tables import gene_table
from syncyte.models.genes import GeneModel, GeneSizes, GeneSpec
from syncyte.objectives.genes import MaskedGenes
from syncyte.recipes.adapter_check import held_out, retrieval
from syncyte.recipes.base import Learn, Order, Recipe, SequenceOrder
from syncyte.recipes.dna_side import SEQUENCES, Side, sequence_side
from syncyte.recipes.save import common_facts, save_run
from syncyte.recipes.train import few_held_out
from syncyte.recipes.train_genes import (
    GeneReader,
    GeneRecipe,
    choose_genes,
    learn_medians,
    row_loader,
    some_rows,
    start_network,
)
from syncyte.tasks.gene_run import HASHES, LINKS, MEDIANS, WINDOWS
from syncyte.train.distributed import Worker
from syncyte.train.loop import FitReport, fit
from syncyte.types import Batch

JUDGED = 512  # cells held out that adapted tokens are compared with static ones on
SHARES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of adapted tokens that are tried there
STRICT = ("sequence", "sequence low", "sequence high", "permuted genes", "mean expression", "genes")
ENSEMBL = r"ENS[A-Z]*G\d"


def prepare_dna(recipe: Recipe, config: GeneRecipe, cells: Cells, order: Order) -> Learn:
    """Check what can be checked before anything is written, and give what trains."""
    name = recipe.modalities[0]
    asked = order.sequences
    if name not in cells.modalities:
        raise DataError(f"{recipe.name} learns from {name!r}; the cells have {' and '.join(cells.modalities)}.")
    if asked is None or (asked.vectors is None and (asked.genome is None or asked.starts is None)):
        raise ConfigError(
            f"{recipe.name} adapts genes to their DNA: give --fasta GENOME.fa.gz and --tss TSS.bed.gz, or a table of "
            "vectors of genes with --gene-features."
        )
    if asked.vectors is not None and asked.genome is not None:
        raise ConfigError("--gene-features takes the place of sequences: leave it out, or leave out --fasta.")
    notes: list[str] = []
    have = cells.present(name)
    if not have.all():
        notes.append(f"{int((~have).sum()):,} of {len(cells):,} cells have no {name!r} and are left out.")
        cells = cells.take(np.flatnonzero(have))
    split = few_held_out(cells, order)
    var = cells.part(name).var
    starts = None
    if asked.starts is not None:
        starts = match_starts(asked.starts, var)
        if not len(starts):
            raise DataError(
                f"None of the {len(var):,} genes of the cells ({', '.join(map(str, var.index[:3]))} ...) is among the "
                f"{asked.starts['gene_id'].nunique():,} of --tss. Check species and kind of names."
            )
        if asked.genome is not None:
            _some_inside(asked.genome, starts, config.window if asked.encoder is None else asked.encoder.length)
    return partial(_learn, recipe, config, cells, order, split, notes)


def _some_inside(genome: Genome, starts: pd.DataFrame, length: int) -> None:
    """Refuse a genome in which no gene has its window."""
    if not covered(genome, starts, length).any():
        have = ", ".join(f"{name}:{start:,}-{end:,}" for name, (start, end) in list(genome.spans.items())[:4])
        first = starts.iloc[0]
        raise DataError(
            f"The genome given covers {have} and no window of {length:,} bases around any of the {len(starts):,} "
            f"starts of the cells' genes (such as {first['chrom']}:{first['tss']:,}). Check build and --offset."
        )


def _learn(
    recipe: Recipe,
    config: GeneRecipe,
    cells: Cells,
    order: Order,
    split: Split,
    notes: list[str],
    run: Path,
    worker: Worker,
) -> None:
    name, asked = recipe.modalities[0], order.sequences
    assert asked is not None
    rows = some_rows(split, order.seed)
    full = cells.part(name).var
    wanted = _wanted(asked, full)
    own = choose_genes(cells.only([name]), name, rows, config, wanted)
    own, given = on_backbone(asked.backbone, own, name, notes)
    var = full.loc[own.part(name).features]
    medians = learn_medians(own, name, rows, var, asked.medians)
    sizes = fitting_sizes(config.sizes, len(rows), len(var), notes)
    spec = GeneSpec(modality=name, features=len(var), encoding=config.encoding, sizes=sizes)
    network = start_network(spec, own, rows, medians, order.seed, given)
    reader = GeneReader(own, name, config.encoding, medians, spec.per_cell)
    first = _fit(network, ["genes"], config, own, name, split, reader, order, run, worker)
    side = sequence_side(config, cells, name, own, var, asked, order, split, notes, run)
    torch.manual_seed(order.seed)  # the same adapter, whether the sequence model was trained just now or before
    model = adapted_model(network, spec, config, side, notes)
    if config.lora and sizes.layers:
        model.add_lora(config.lora)
        stage = config.stages["adapter"]
        learns = stage.model_copy(update={"trainable": (*stage.trainable, "lora_")})
        config = config.model_copy(update={"stages": {**config.stages, "adapter": learns}})
    last = _fit(model, ["adapter"], config, own, name, split, reader, order, run, worker)
    if worker.rank == 0:
        side.report["adapter"] |= set_gate(model, reader, split, config, order.seed)
        notes += _worse(side.report["adapter"])
        facts, arrays, tables = _facts(config, model, side, own, split, [first, last], notes, order)
        arrays[MEDIANS] = medians.astype(np.float64)
        metrics = {f"adapter {key}": value for key, value in facts["adapter"].items() if isinstance(value, float)}
        save_run(run, model, {name: _kept(var, asked.starts)}, facts, arrays, about={}, metrics=metrics, tables=tables)
        for left in (SEQUENCES, *(f".{key}" for key in config.stages)):
            shutil.rmtree(run / left, ignore_errors=True)


def _kept(var: pd.DataFrame, starts: pd.DataFrame | None) -> pd.DataFrame:
    """Names of genes as they are kept in a run: ids and symbols that the cells lack are those of the starts.

    A gene without an id has an empty one; where no gene has one there is no column.
    """
    found = pd.DataFrame(index=var.index)
    named = pd.Series(var.index.astype(str), dtype=object)
    known = var["gene_id"].astype(str) if "gene_id" in var else named.where(named.str.match(ENSEMBL), "")
    ids = known.to_numpy(dtype=object, copy=True)
    matched = None if starts is None else match_starts(starts, var).drop_duplicates("gene")
    if matched is not None:
        own = matched[matched["gene_id"].astype(str) != matched["symbol"].astype(str)]  # a symbol twice is no id
        own = own[ids[own["gene"].to_numpy()] == ""]
        ids[own["gene"].to_numpy()] = own["gene_id"].astype(str).to_numpy()
    if (ids != "").any():
        found["gene_id"] = ids
    if matched is not None and named.str.match(ENSEMBL).any():
        symbols = matched["symbol"].astype(str)
        place = matched["gene"].to_numpy()[(symbols != "").to_numpy()]
        named.iloc[place] = symbols[symbols != ""].to_numpy()
        found["symbol"] = named.to_numpy()
    return found


def fitting_sizes(sizes: GeneSizes, cells: int, genes: int, notes: list[str]) -> GeneSizes:
    """Sizes with no more coordinates than cells and genes can tell."""
    most = max(2, min(cells, genes) // 3)
    if sizes.components <= most:
        return sizes
    notes.append(f"{cells:,} cells and {genes:,} genes: {most} coordinates of a gene instead of {sizes.components}.")
    return sizes.model_copy(update={"components": most})


def on_backbone(backbone: Any, cells: Cells, name: str, notes: list[str]) -> tuple[Cells, NDArray[np.float32] | None]:
    """Cells in the genes of a trained run, and where these lie in it; as they were without one."""
    if backbone is None:
        return cells, None
    table = gene_table(backbone.model, name)
    features = cells.part(name).features
    place = backbone.vocabularies[name].index.get_indexer(features)
    if not (place >= 0).any():
        raise DataError(
            f"None of the {len(features):,} genes of the cells is known to the backbone {backbone.path}. Give the run "
            "cells that name genes alike."
        )
    notes.append(
        f"Tokens are those of the run {backbone.path.name}: {int((place >= 0).sum()):,} of {len(features):,} genes."
    )
    kept = cells.align(name, features[place >= 0]) if (place < 0).any() else cells
    return kept, table[place[place >= 0]]


def _wanted(asked: SequenceOrder, var: pd.DataFrame) -> NDArray[np.bool_]:
    """Genes that are kept whatever their expression: those with a window or a vector, where they are few."""
    found = np.zeros(len(var), dtype=bool)
    if asked.vectors is not None:
        found |= var.index.isin(asked.vectors.index)
    elif asked.starts is not None and asked.genome is not None:
        starts = match_starts(asked.starts, var)
        inside = [asked.genome.covers(c, t, t + 1) for c, t in zip(starts["chrom"].astype(str), starts["tss"].tolist())]
        found[starts["gene"].to_numpy()[np.array(inside, dtype=bool)]] = True
    return found


def _fit(
    model: GeneModel,
    names: list[str],
    config: GeneRecipe,
    cells: Cells,
    name: str,
    split: Split,
    reader: GeneReader,
    order: Order,
    run: Path,
    worker: Worker,
) -> FitReport | None:
    """Train the stages named, each with a state of its own: the adapter comes to a network that is finished."""
    stages = [stage for key, stage in config.stages.items() if key in names and stage.active]
    if not stages:
        return None
    objective = MaskedGenes(reader, ratio=config.ratio, asked=config.asked)
    objectives = {stage.name: {key: objective for key in stage.objectives} for stage in stages}

    def make(stage: Any, part: str, rank: int, world: int) -> Any:
        return row_loader(cells, name, split, order.seed, stage, part, rank, world)

    folder = run / f".{names[0]}"
    return fit(model, stages, run=folder, make_loader=make, objectives=objectives, worker=worker, **order.fitting())


def adapted_model(network: GeneModel, spec: GeneSpec, config: GeneRecipe, side: Side, notes: list[str]) -> GeneModel:
    """The network with an adapter that starts from the regression of static tokens on vectors."""
    changed = {"inputs": side.vectors.shape[1], "mode": config.mode, "match": config.match}
    model = GeneModel(spec.model_copy(update=changed))
    model.load_state_dict(network.state_dict(), strict=False)
    assert model.adapter is not None
    model.vectors.copy_(torch.from_numpy(side.vectors))
    model.covered.copy_(torch.from_numpy(side.covered))
    tokens = model.static().detach().numpy()
    some = np.flatnonzero(side.covered)
    if len(some) >= 3 and len(np.unique(side.parts[some])) >= 2:
        vectors = side.vectors[some]
        fitted = fit_adapter(model.adapter, vectors, tokens[some], side.parts[some], side.blocks)
        scale = fitted.pop("scale")
        side.report["adapter"] = fitted
        predicted, fold = held_out(vectors / scale, tokens[some], side.parts[some], _ridge(fitted["penalty"]))
        side.report["adapter"] |= retrieval(predicted, tokens[some], fold)
        never = unseen(side, some)
        if never.any():
            strict = retrieval(predicted[never], tokens[some][never], fold[never])
            side.report["adapter"] |= {f"unseen {key}": strict[key] for key in STRICT if key in strict}
        if len(fitted["weights"]) > 2 and not any(fitted["weights"][2:]) and side.windows is not None:
            side.pruned = side.without(1)
            notes.append("Peaks near genes told nothing about genes of chromosomes left out: only starts are read.")
    else:
        side.report["adapter"] = {}
        notes.append("Too few genes with a vector to fit an adapter: tokens stay as good as static.")
    return model.to(network.table.device)


@torch.no_grad()
def held_out_loss(model: GeneModel, reader: GeneReader, split: Split, config: GeneRecipe, seed: int) -> float:
    """Masked loss of cells held out, with tokens as they are now."""
    rows = (split.validation if len(split.validation) else split.train)[:JUDGED]
    objective = MaskedGenes(reader, ratio=config.ratio, asked=config.asked)
    generator = torch.Generator(model.table.device).manual_seed(seed)
    model.eval()
    parts = [
        float(objective(model, Batch({}, {}, {}, torch.from_numpy(rows[begin : begin + 64])), generator).total)
        for begin in range(0, len(rows), 64)
    ]
    return float(np.mean(parts))


def set_gate(model: GeneModel, reader: GeneReader, split: Split, config: GeneRecipe, seed: int) -> dict[str, float]:
    """Set the gate on cells held out; their masked loss with tokens as adapted, and with static ones."""
    adapter = model.adapter
    assert adapter is not None
    mode = adapter.mode
    if mode == "residual":
        losses = {}
        for share in SHARES:
            adapter.set_share(share)
            losses[share] = held_out_loss(model, reader, split, config, seed)
        adapter.set_share(min(losses, key=losses.__getitem__))
    found = {}
    for name, way in (("masked loss adapted", mode), ("masked loss static", "static")):
        adapter.mode = way
        found[name] = held_out_loss(model, reader, split, config, seed)
    adapter.mode = mode
    return found


def unseen(side: Side, genes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which genes lie on chromosomes that neither taught nor stopped the sequence model; none where that is not known.

    Stretches of a chromosome do not count: those of genes and those of regions have other ends.
    """
    reported = [part for part in side.report.get("training", {}).get("test", ()) if " part " not in part]
    return np.isin(side.parts[genes].astype(str), reported)


def _worse(facts: dict[str, Any]) -> list[str]:
    """What must be said where adapted tokens cost the network something."""
    ours, static = facts["masked loss adapted"], facts["masked loss static"]
    if ours <= static * (1 + 1e-3):
        return []
    return [
        f"Hidden genes are predicted worse from adapted tokens than from static ones (loss {ours:.3f} and "
        f"{static:.3f}): DNA says less of a gene than its own counts do."
    ]


def _ridge(penalty: float) -> Any:
    def fitted(x: NDArray, y: NDArray) -> Any:
        mean, middle = x.mean(axis=0), y.mean(axis=0)
        z = (x - mean).astype(np.float64)
        weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - middle))
        return lambda new: (new - mean) @ weights + middle

    return fitted


def _facts(
    config: GeneRecipe,
    model: GeneModel,
    side: Side,
    cells: Cells,
    split: Split,
    reports: list[FitReport | None],
    notes: list[str],
    order: Order,
) -> tuple[dict[str, Any], dict[str, NDArray], dict[str, pd.DataFrame]]:
    done = [report for report in reports if report is not None]
    whole = FitReport(
        False,
        any(report.resumed for report in done),
        tuple(stage for report in done for stage in report.stages),
        sum(report.cpu_seconds for report in done),
        sum(report.wall_seconds for report in done),
    )
    assert model.adapter is not None
    adapter = {**side.report.pop("adapter", {}), "share": float(model.adapter.share.detach())}
    facts = {
        "kind": "genes",
        "config": config.model_dump(mode="json"),
        "spec": model.spec.model_dump(mode="json"),
        "encoder": side.report,
        "adapter": adapter,
        "covered": int(side.covered.sum()),
        **common_facts(cells, split, whole, notes, order),
    }
    arrays: dict[str, NDArray] = {}
    tables: dict[str, pd.DataFrame] = {}
    side = side.pruned or side
    if side.windows is not None and side.encoder is not None:
        facts["encoder"] = {**side.report, "fingerprint": side.encoder.fingerprint}
        arrays[HASHES] = side.hashes.view(np.int64)
        tables = {WINDOWS: _numbered(side.windows.table), LINKS: _numbered(side.windows.links)}
    return facts, arrays, tables


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index(pd.Index([str(row) for row in range(len(table))], name="row"))
