"""Variants followed into cells: a simulated network of known truth, known targets in real blood cells, and speed.

python benchmarks/variants.py network --out network.md      # simulated genome, two seeds
python benchmarks/variants.py targets CELLS.h5ad PAIRS.tsv.gz --group cell_type --out targets.md
python benchmarks/variants.py speed --out speed.md          # 10,000 SNVs over 1,000 genes
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import syncyte
from syncyte.files import open_data
from syncyte.genome.fasta import Genome
from syncyte.genome.vcf import read_variants
from syncyte.recipes.simulate_regulation import simulate_regulation, write_regulation
from syncyte.tasks.gene_run import open_gene_run
from syncyte.tasks.network_cells import FEWEST
from syncyte.tasks.target_sets import all_targets, read_targets, score_targets
from syncyte.tasks.variant_effects import pair_effects
from syncyte.tasks.variant_tokens import alleles_of, changed_tokens
from syncyte.tasks.variants import network_cells, variant_effects


def world(folder: Path, seed: int, settings: list[str], preset: str) -> tuple[Any, Any, dict[str, Path], float]:
    """Simulated files and a run trained on them."""
    made = simulate_regulation(3000, seed)
    files = write_regulation(made, folder / f"world{seed}")
    begin = time.process_time()
    run = syncyte.train(
        "bio_dta",
        files["cells.h5mu"],
        fasta=files["genome.fa"],
        tss=files["tss.bed"],
        label_key="cell_type",
        preset=preset,
        out=folder / f"run{seed}",
        settings=["window=400", *settings],
        seed=seed,
        quiet=True,
    )
    return made, open_gene_run(run), files, time.process_time() - begin


def network(args: argparse.Namespace) -> str:
    """Targets of factors whose driver or control sites are changed, and retrieval of genes by their DNA."""
    rows, adapters = [], []
    with tempfile.TemporaryDirectory() as name:
        for seed in args.seeds:
            made, run, files, seconds = world(Path(name), seed, args.set, args.preset)
            facts = run.trained.recipe["adapter"]
            encoder = run.trained.recipe["encoder"]
            adapters.append({"seed": seed, "CPU s": round(seconds), "sequence model": encoder["verdict"], **facts})
            genome = Genome.open(files["genome.fa"])
            cells = open_data(files["cells.h5mu"]).only(["rna"])
            found = variant_effects(
                run,
                read_variants(files["variants.vcf"], genome),
                genome,
                cells,
                group="cell_type",
                donor="donor",
                seed=seed,
            )
            rows += _sites(made, run, found, seed)
    table = pd.DataFrame(rows)
    shown = table.groupby(["seed", "site"])[list(MEASURES)].mean().round(3)
    beyond = table[table["beyond"]].groupby("seed")[["targets by change", "co-expression"]].mean().round(3)
    keep = ["seed", "CPU s", "sequence model", "sequence", "sequence low", "sequence high", "permuted genes"]
    keep += ["mean expression", "first", "first by chance", "genes"]
    keep += ["unseen sequence", "unseen permuted genes", "unseen genes", "masked loss adapted", "masked loss static"]
    return "\n\n".join(
        [
            "Retrieval of a gene by its DNA, chromosomes left out:",
            _table(pd.DataFrame(adapters)[keep].round(3)),
            "Sites of factors changed (mean over sites):",
            _table(shown.reset_index()),
            "Driver sites that move their factor beyond random variants:",
            _table(beyond.reset_index()),
        ]
    )


MEASURES = ("sites", "beyond", "own change", "sign and type", "targets by change", "raw ranking", "token alone",
            "co-expression", "co-expression within groups")  # fmt: skip


def _sites(made: Any, run: Any, found: Any, seed: int) -> list[dict[str, Any]]:
    """A row for each changed site of a factor in its own promoter."""
    from syncyte.tasks.target_sets import rankings

    table, names = found.tokens.table, found.names
    symbols, level = run.symbols, run.model.level.cpu().numpy()
    motif = made.sites.assign(key=made.sites["gene"])
    rows = []
    for pair, one in enumerate(table.itertuples(index=False)):
        name, factor = names[one.allele], symbols[one.gene]
        if not name.startswith(f"{factor}_"):
            continue
        kind = name.split("_")[1]
        targets = np.flatnonzero(np.isin(symbols, made.targets.loc[made.targets["factor"] == factor, "target"]))
        alternate = found.tokens.alternate[pair]
        beyond = bool(found.over_groups[pair] <= 0.05)
        scores = rankings(found.cells, one.gene, alternate, seed)
        scored = score_targets(scores, level, one.gene, targets, seed).set_index("ranking")["auroc"]
        own = pd.Series(found.numbers.own[pair], index=found.cells.units["group"]).groupby(level=0).mean()
        drivers = motif[(motif["gene"] == factor) & (motif["kind"] == "driver")]["motif"]
        truth = -made.profile[drivers.iloc[0]].reindex(own.index)
        rows.append(
            {
                "seed": seed,
                "site": kind,
                "sites": 1,
                "beyond": beyond,
                "own change": float(np.nanmean(np.abs(found.numbers.own[pair]))),
                "sign and type": float(np.corrcoef(own, truth)[0, 1]) if kind == "driver" else np.nan,
                "targets by change": scored["sequence: change"] if beyond else 0.5,
                "raw ranking": scored["sequence: change"],
                "token alone": scored["sequence, token alone: change"],
                "co-expression": scored["co-expression"],
                "co-expression within groups": scored["co-expression within groups"],
            }
        )
    return rows


def targets(args: argparse.Namespace) -> str:
    """Known targets ranked in real cells by edits that need no sequence."""
    with tempfile.TemporaryDirectory() as name:
        cells = open_data(args.cells)
        genes = cells.part("rna").features
        blank = pd.DataFrame(np.random.default_rng(0).normal(size=(len(genes), 4)), index=genes)
        run = syncyte.train(
            "bio_dta",
            args.cells,
            gene_features=blank,
            out=Path(name) / "run",
            preset=args.preset,
            settings=["mode=static", "stages.adapter.epochs=0", *args.set],
            quiet=True,
        )
        book = open_gene_run(run)
        network, _ = network_cells(book, cells, args.group, args.donor, None, 0)
        table, _ = all_targets(network, book.symbols, read_targets(args.pairs), {}, 0)
    mean = table.groupby("ranking", sort=False)[
        ["auroc", "auprc", "auprc_chance", "in_first_50", "expected_in_first_50"]
    ]
    mean = mean.mean().round(3).reset_index()
    some = table[table["gene"].isin(args.genes) & table["ranking"].str.contains("change|expression")]
    some = some[["gene", "ranking", "targets", "auroc", "auroc_low", "auroc_high", "p", "in_first_50"]].round(3)
    count = f"{table['gene'].nunique()} factors with three or more targets among {len(book.genes):,} genes"
    head = f"{count} (mean over factors):"
    return "\n\n".join([head, _table(mean), _table(some)])


def slices(args: argparse.Namespace) -> str:
    """Real pieces of a genome: variants of a file, and 20 SNVs around the start of each gene, from VCF to report."""
    from syncyte.genome.tss import covered, read_tss
    from syncyte.recipes.dna_order import read_offset

    genome = Genome.open([Path(one) for one in args.fasta], offset=read_offset(args.offset))
    starts = read_tss(args.tss)
    starts = starts[covered(genome, starts, 600)]
    rng = np.random.default_rng(0)
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for gene in starts.itertuples(index=False):
        for offset in rng.choice(np.arange(-250, 250), 20, replace=False):
            place = int(gene.tss) + int(offset)
            base = int(genome.fetch(str(gene.chrom), place, place + 1)[0])
            if base < 4:
                alt = "ACGT"[(base + int(rng.integers(1, 4))) % 4]
                lines.append(f"{gene.chrom}\t{place + 1}\t{gene.symbol}_{offset}\t{'ACGT'[base]}\t{alt}\t.\tPASS\t.")
    given = {"fasta": args.fasta, "offset": args.offset}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        many = Path(name) / "many.vcf"
        many.write_text("\n".join(lines) + "\n")
        begin = time.process_time()
        run = syncyte.train(
            "bio_dta", args.cells, **given, tss=args.tss, peaks=args.pairs, label_key=args.group, preset=args.preset,
            out=Path(name) / "run", quiet=True,
        )  # fmt: skip
        trained = time.process_time() - begin
        for title, vcf in (("variants of the file", args.vcf), ("SNVs around starts", many)):
            begin = time.process_time()
            found = syncyte.variants(
                run, **given, vcf=vcf, cells=args.cells, group=args.group, out=Path(name) / title.split()[0], quiet=True
            )
            shown = {key: value for key, value in found.metrics.items() if not key.startswith("matched")}
            table = found.effects
            shown["alleles with a row"] = int(table["variant"].nunique())
            shown["pages and tables"] = len(list((Path(name) / title.split()[0]).glob("*.*")))
            shown["CPU s"] = round(time.process_time() - begin)
            rows.append({"input": title, **shown})
    recipe = run.recipe
    head = f"Trained in {trained:.0f} CPU s. Genes with a window: {recipe['covered']}. " + " ".join(recipe["notes"])
    return "\n\n".join([head, _table(pd.DataFrame(rows).set_index("input").T.reset_index())])


def speed(args: argparse.Namespace) -> str:
    """10,000 SNVs over 1,000 genes against a loop over variants that does the same."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        made, run, files, _ = world(Path(name), 0, args.set, "lite")
        genome = Genome.open(files["genome.fa"])
        vcf = Path(name) / "many.vcf"
        vcf.write_text(_many(made, run, genome, 1_000, 10))
        variants = read_variants(vcf, genome)
        cells = open_data(files["cells.h5mu"]).only(["rna"])
        side, _ = run.side(genome, None, True)
        network, _ = network_cells(run, cells, "cell_type", "donor", None, 0)
        begin = time.perf_counter()
        tokens = changed_tokens(run.model, side, alleles_of(variants))
        numbers = pair_effects(network, tokens)
        ours = time.perf_counter() - begin
        few = np.random.default_rng(0).choice(len(variants), args.naive, replace=False)
        begin = time.perf_counter()
        errors = [_one(run, side, network, variants, int(row), tokens, numbers) for row in few]
        loop = (time.perf_counter() - begin) / len(few) * len(variants)
    rows = [
        {
            "way": f"syncyte, {len(variants):,} SNVs over {tokens.table['gene'].nunique():,} genes",
            "seconds": round(ours, 1),
        },
        {"way": f"a loop over variants ({args.naive} timed)", "seconds": round(loop, 1)},
        {"way": "ratio", "seconds": round(loop / ours, 1)},
        {"way": "largest relative difference of own changes", "seconds": float(max(one[0] for one in errors))},
        {"way": "median relative difference of sizes", "seconds": float(np.median([one[1] for one in errors]))},
        {"way": "largest relative difference of sizes", "seconds": float(max(one[1] for one in errors))},
    ]
    return _table(pd.DataFrame(rows))


def _many(made: Any, run: Any, genome: Genome, genes: int, each: int) -> str:
    """SNVs in the windows of genes that cells express."""
    rng = np.random.default_rng(0)
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    chosen = rng.choice(len(made.tss), genes, replace=False)
    for row in chosen:
        gene = made.tss.iloc[row]
        for offset in rng.choice(np.arange(-190, 190), each, replace=False):
            place = int(gene["tss"]) + int(offset)
            base = int(genome.fetch(gene["chrom"], place, place + 1)[0])
            other = (base + int(rng.integers(1, 4))) % 4
            lines.append(f"{gene['chrom']}\t{place + 1}\t.\t{'ACGT'[base]}\t{'ACGT'[other]}\t.\tPASS\t.")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def _one(run: Any, side: Any, network: Any, variants: Any, row: int, tokens: Any, numbers: Any) -> tuple[float, float]:
    """One variant by itself: both windows encoded, the cells read with REF and with ALT; how far numbers differ."""
    model = run.model
    alone = changed_tokens(model, side, alleles_of(variants.take([row])))
    worst = own_error = 0.0
    for pair, gene in enumerate(alone.table["gene"]):
        at = torch.from_numpy(network.expressing(int(gene)))
        if not len(at):
            continue
        raw = torch.from_numpy(network.amount[at.numpy()].toarray())
        units, every = network._weights(at), torch.arange(model.spec.features)
        head, few = network.head, network._first(at)
        own, amount, moved = network._own(int(gene), at, alone.alternate[pair][None], alone.reference[pair], False)

        def seen(token: torch.Tensor, scaled: torch.Tensor, raw=raw, gene=gene, head=head) -> torch.Tensor:
            table, cells = network.tokens.clone(), raw.clone()
            table[gene] = token
            cells[:, gene] = scaled * model.sd[gene] + model.mean[gene]
            read = model.read(cells, table)
            own_part = read.amount * (network.coordinates * model.mix * head).sum(dim=1)
            return (read.total * model.mix) @ head.T - own_part

        before = seen(alone.reference[pair], amount)
        carried = units @ (seen(alone.reference[pair], moved[0]) - before)
        token = units @ (seen(alone.alternate[pair], amount) - before)
        for token_of in (alone.reference[pair], alone.alternate[pair]):  # contextual embeddings, before and after
            table = network.tokens.clone()
            table[gene] = token_of
            model.context(model.read(raw[few], table), network.tokens, every, head)
        carried[:, gene] = token[:, gene] = 0
        size = _sizes(network, int(gene), carried)
        place = np.flatnonzero((tokens.table["allele"] == row) & (tokens.table["gene"] == gene))[0]
        known = np.isfinite(numbers.size[place])
        if known.any() and size[known].max() > 1e-12:
            worst = max(worst, float(np.max(np.abs(size[known] - numbers.size[place][known])) / size[known].max()))
            means, kept = (own @ units.T)[0].numpy(), np.isfinite(numbers.own[place])
            gap = np.abs(means[kept] - numbers.own[place][kept]).max()
            own_error = max(own_error, float(gap / np.abs(means[kept]).max()))
    return own_error, worst


def _sizes(network: Any, gene: int, change: torch.Tensor) -> np.ndarray:
    from syncyte.tasks.variant_effects import group_means

    count = np.bincount(network.unit[network.expressing(gene)], minlength=len(network.units))
    values = change.numpy()[None].astype(np.float32)
    values[:, count < FEWEST] = np.nan
    means = group_means(network, values)[0]
    return np.sqrt(np.square(means).sum(axis=1) / (means.shape[1] - 1))


def _table(frame: pd.DataFrame) -> str:
    """Frame as a table of Markdown."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + " --- |" * frame.shape[1]]
    lines += ["| " + " | ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in row) + " |"
              for row in frame.itertuples(index=False)]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["network", "targets", "slices", "speed"])
    parser.add_argument("cells", nargs="?")
    parser.add_argument("pairs", nargs="?")
    parser.add_argument("--fasta", nargs="*")
    parser.add_argument("--offset", nargs="*")
    parser.add_argument("--tss")
    parser.add_argument("--vcf")
    parser.add_argument("--group")
    parser.add_argument("--donor")
    parser.add_argument("--genes", nargs="*", default=["SPI1", "GATA1"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--naive", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = {"network": network, "targets": targets, "slices": slices, "speed": speed}[args.what](args)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
