"""The sequence encoder beside GC content and short words: Nanog binding, and open chromatin from little sequence.

    OMP_NUM_THREADS=1 python benchmarks/dna_encoder.py DATA --out benchmarks/results/dna_encoder.md

DATA holds the folders dna and reference. Nanog (200 bp, H1 stem cells): chr8 and chr9 are the test, chr10 stops the
training and sets the gate; shapes were chosen on chr4, chr10, chr12 and chr17, without the test chromosomes. The
control is trained and tested on sequences shuffled with their pairs of neighbours kept, and also scored among
sequences of like composition. With ``--lsgkm FOLDER``, which holds gkmtrain and gkmpredict of LS-GKM (Lee 2016), a
gapped k-mer SVM with its defaults stands beside. ``--parts presets`` trains the sequence models of the presets of
bio_dta on the same split, with the numbers that the recipe holds. Open chromatin: peaks and GC-matched peak-free
windows of slices of chr1 and chr22, tested on a slice of chr9.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from syncyte.baselines.sequence import column_scores
from syncyte.genome.fasta import Genome
from syncyte.genome.kmers import kmer_counts
from syncyte.genome.negatives import matched_negatives, peak_windows, window_codes
from syncyte.genome.sequence import dinucleotide_shuffle, to_codes, to_text
from syncyte.models.dna_encoder import TrainedEncoder
from syncyte.recipes.bio_dta import lite, small
from syncyte.train.sequence_report import compare, predictions, weighted_ranking
from syncyte.train.sequences import fit_encoder, indicators

TEST, VALID = ("chr8", "chr9"), ("chr10",)
PARTS = ("nanog", "presets", "open")
LENGTH, NEGATIVES = 600, 3  # open chromatin: bases, and peak-free windows for each peak
Cases = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes, targets, chromosomes


def nanog(folder: Path) -> Cases:
    codes, targets, chroms = [], [], []
    for target, name in ((1.0, "nanog_h1esc_positives.fa.gz"), (0.0, "nanog_h1esc_negatives.fa.gz")):
        with gzip.open(folder / name, "rt") as lines:
            for line in lines:
                if line.startswith(">"):
                    chroms.append(line[1:].split(":")[0])
                else:
                    codes.append(to_codes(line.strip()))
                    targets.append(target)
    return np.stack(codes), np.array(targets), np.array(chroms)


def shuffled(codes: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([dinucleotide_shuffle(row, rng) for row in codes])


def timed(cases: Cases, **options: Any) -> tuple[TrainedEncoder, float]:
    """An encoder, and its CPU minutes with those of its report."""
    begin = time.process_time()
    encoder = fit_encoder(*cases, **options)
    return encoder, (time.process_time() - begin) / 60


@torch.no_grad()
def towers(encoder: TrainedEncoder, codes: np.ndarray) -> list[np.ndarray]:
    """What each tower says by itself."""
    x = [indicators(codes[first : first + 256]) for first in range(0, len(codes), 256)]
    return [np.concatenate([tower.head(tower(part)).numpy() for part in x]) for tower in encoder.network.each()]


def single(start: np.ndarray, tower: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """The encoder with one tower instead of the mean of all."""
    return gate[0] * start + gate[1] * tower + gate[2]


def gapped_svm(programs: Path, cases: Cases, work: Path) -> np.ndarray:
    """Scores of a gkm-SVM (l = 11, k = 7, at most 3 mismatches) on the test sequences; a model in ``work`` is kept."""
    codes, y, chroms = cases
    test, valid = np.isin(chroms, TEST), np.isin(chroms, VALID)
    work.mkdir(parents=True, exist_ok=True)
    parts = {"pos": ~test & ~valid & (y == 1), "neg": ~test & ~valid & (y == 0), "test": test}
    for name, rows in parts.items():
        lines = [f">{row}\n{to_text(codes[row])}" for row in np.flatnonzero(rows)]
        (work / f"{name}.fa").write_text("\n".join(lines) + "\n")
    if not (work / "gkm.model.txt").exists():
        train = [programs / "gkmtrain", "-m", "4000", work / "pos.fa", work / "neg.fa", work / "gkm"]
        subprocess.run([str(part) for part in train], check=True)
    predict = [programs / "gkmpredict", work / "test.fa", work / "gkm.model.txt", work / "test.txt"]
    subprocess.run([str(part) for part in predict], check=True)
    return pd.read_csv(work / "test.txt", sep="\t", header=None)[1].to_numpy()


def pairs_alone(cases: Cases) -> np.ndarray:
    """Scores of the test sequences by their counts of neighbouring pairs alone: an SVM with the defaults."""
    codes, y, chroms = cases
    test, valid = np.isin(chroms, TEST), np.isin(chroms, VALID)
    counts, learned = kmer_counts(codes, 2).toarray(), ~test & ~valid
    model = make_pipeline(StandardScaler(), SVC()).fit(counts[learned], y[learned])
    return model.decision_function(counts[test])


def like_composition(y: np.ndarray, guess: np.ndarray, guide: np.ndarray) -> tuple[float, float, float]:
    """AUROC among sequences of which ``guide`` says about the same (its twentieths), with its interval."""
    part = np.argsort(np.argsort(guide, kind="stable")) * 20 // len(guide)
    weights = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), 500)
    weights = np.concatenate([np.ones((1, len(y))), weights])
    total, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for one in range(20):
        rows = part == one
        some = (weights[:, rows] @ y[rows]) * (weights[:, rows] @ (1 - y[rows]))
        area, _ = weighted_ranking(y[rows], guess[rows], weights[:, rows].astype(float))
        total, pairs = total + np.where(some > 0, area, 0) * some, pairs + some
    values = total / pairs
    return values[0], *np.quantile(values[1:], (0.025, 0.975))


def cell(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def score_table(scores: dict[str, Any]) -> list[str]:
    measures = list(next(iter(scores.values())))
    lines = ["| method | " + " | ".join(measures) + " |", "| --- |" + " --- |" * len(measures)]
    lines += [f"| {name} | " + " | ".join(cell(row[key]) for key in measures) + " |" for name, row in scores.items()]
    return lines


def nanog_part(folder: Path, epochs: int, seed: int, lsgkm: Path | None, work: Path) -> list[str]:
    cases = nanog(folder)
    codes, y, chroms = cases
    options: dict[str, Any] = {"valid": VALID, "test": TEST, "epochs": epochs, "seed": seed}
    encoder, minutes = timed(cases, **options)
    test = np.isin(chroms, TEST)
    report = encoder.report
    start = predictions(encoder, codes[test])[1]
    gate = encoder.network.gate.numpy()
    alone = [column_scores(y[test], tower, "binary")[0] for tower in towers(encoder, codes[test])]
    ones = [column_scores(y[test], single(start, tower, gate), "binary")[0] for tower in towers(encoder, codes[test])]
    guesses, peer = {"encoder": predictions(encoder, codes[test])[0][:, 0]}, []
    if lsgkm is not None:
        guesses["gkm-SVM"] = gapped_svm(lsgkm, cases, work)
        found, ahead = compare(y[test], guesses, chroms[test], "binary")
        peer = [
            "Gapped k-mer SVM (LS-GKM, its defaults, the same training sequences): AUROC "
            f"{cell(found['gkm-SVM']['auroc'])}, AUPRC {cell(found['gkm-SVM']['auprc'])}; the encoder is ahead in "
            f"AUROC by {cell(ahead['gkm-SVM'])}.",
            "",
        ]
    return [
        "## Nanog binding",
        "",
        f"{report['rows']['train']:,} sequences to train on, {report['rows']['valid']} on chr10, "
        f"{report['rows']['test']:,} on chr8 and chr9 ({report['mean_target']['test']:.3f} bound). Seed {seed}; three "
        f"towers of seeds of their own, {sum(p.numel() for p in encoder.network.parameters()):,} learned numbers, "
        f"{epochs} epochs at most; {minutes:.1f} CPU minutes, yardsticks included. 95 % intervals resample "
        f"{report['resampled']}.",
        "",
        *score_table(report["scores"]["test"]),
        "",
        f"On chr10, which stopped the training and set the gate (so it flatters): encoder "
        f"{cell(report['scores']['valid']['encoder']['auroc'])}.",
        "",
        "Ahead in AUROC: "
        + "; ".join(f"of {name} by {cell(value)}" for name, value in report["ahead"]["test"].items())
        + f". Verdict: **{report['verdict']}**.",
        "",
        f"One tower by itself (three seeds): {', '.join(f'{value:.3f}' for value in alone)}; with the closed form: "
        f"{', '.join(f'{value:.3f}' for value in ones)}. Gate: {gate[0, 0]:.2f} of the closed form, {gate[1, 0]:.2f} "
        "of the towers.",
        "",
        *peer,
        *shuffled_part(cases, encoder, guesses, options),
    ]


def shuffled_part(cases: Cases, encoder: TrainedEncoder, guesses: dict[str, np.ndarray], options: Any) -> list[str]:
    """What is left without order, and what the order adds where composition says nothing."""
    codes, y, chroms = cases
    test = np.isin(chroms, TEST)
    mixed = predictions(encoder, shuffled(codes[test], 1))[0]
    said = compare(y[test], {"shuffled": mixed}, chroms[test], "binary")[0]["shuffled"]
    lost_codes = shuffled(codes, 0)
    control, minutes = timed((lost_codes, y, chroms), **{**options, "members": 1})
    lost = control.report["scores"]["test"]
    trained = "encoder trained and tested on shuffled sequences"
    guesses = {**guesses, trained: predictions(control, lost_codes[test])[0][:, 0]}
    pairs = pairs_alone(cases)
    like = {name: like_composition(y[test], guess, pairs) for name, guess in guesses.items()}
    return [
        "Shuffled DNA (pairs of neighbours kept) holds no motif, but the composition of its class: the floor is what "
        "2-mers say, not 0.5.",
        "",
        *score_table(
            {
                "this encoder on shuffled test sequences": said,
                trained: lost["encoder"],
                "6-mers trained and tested on shuffled sequences": lost["6-mers"],
                "2-mers, which shuffling keeps": lost["2-mers"],
                "GC content, the same": lost["GC content"],
            }
        ),
        "",
        f"Verdict of the shuffled encoder: {control.report['verdict']} ({minutes:.1f} CPU minutes, one tower).",
        "",
        f"An SVM on the counts of pairs alone has {column_scores(y[test], pairs, 'binary')[0]:.3f}. Among sequences of "
        "which it says the same (twentieths of the test), so that composition cannot help, AUROC: "
        + "; ".join(f"{name} {cell(value)}" for name, value in like.items())
        + ".",
        "",
    ]


def presets_part(folder: Path, seed: int) -> list[str]:
    """What the sequence models of the presets reach beside the default of ``fit_encoder``."""
    cases = nanog(folder)
    told = {f"`{recipe.preset}`": dict(recipe.encoder) for recipe in (lite(), small())}
    lines = []
    for name, settings in {**told, "default of `fit_encoder`": {}}.items():
        encoder, minutes = timed(cases, valid=VALID, test=TEST, seed=seed, **settings)
        scores, sizes = encoder.report["scores"]["test"]["encoder"], encoder.sizes
        shape = f"{sizes.members} of {sizes.filters} filters, {encoder.report['training']['epochs']} epochs"
        measures = " | ".join(cell(scores[key]) for key in ("auroc", "auprc"))
        lines.append(f"| {name} | {shape} | {measures} | {minutes:.1f} | {encoder.verdict} |")
    return [
        "## Sequence models of the presets, on Nanog binding",
        "",
        f"The split, the seed ({seed}) and the yardsticks above; `bio_dta` trains with these numbers on windows of its "
        "own. CPU minutes hold the yardsticks too.",
        "",
        "| settings | towers | auroc | auprc | CPU minutes | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
        *lines,
        "",
    ]


def open_part(data: Path, cache: Path, epochs: int, seed: int) -> list[str]:
    files = {"hg38_chr1_0_1000000.fa.gz": 0, "hg38_chr22_32000000_32300000.fa.gz": 32_000_000}
    genomes = [Genome.open(data / "dna" / name, offset=offset, cache=cache) for name, offset in files.items()]
    genomes.append(Genome.open(data / "reference" / "GRCh38_chr9_1_1000000.fa.gz", offset=0, cache=cache))
    peaks = pd.read_csv(
        data / "dna" / "pbmc3k_multiome_peaks.hg38.bed.gz", sep="\t", header=None, names=["chrom", "start", "end"]
    )
    codes, targets, groups = [], [], []
    for genome in genomes:
        near = peak_windows(genome, peaks, LENGTH)
        far = matched_negatives(genome, peaks, NEGATIVES * len(near), seed, length=LENGTH)
        for table, target in ((near, 1.0), (far, 0.0)):
            codes.append(window_codes(genome, table))
            targets.append(np.full(len(table), target))
            groups.append(table["chrom"].to_numpy().astype(str))
    cases = (np.concatenate(codes), np.concatenate(targets), np.concatenate(groups))
    encoder, minutes = timed(cases, valid=["chr22"], test=["chr9"], epochs=epochs, seed=seed, members=1)
    report = encoder.report
    rows, held = report["rows"], cases[1][cases[2] == "chr9"]
    return [
        "## Open chromatin from 1.3 million bases",
        "",
        f"Windows of {LENGTH} bp around PBMC multiome peaks and up to {NEGATIVES} GC-matched peak-free windows each: "
        f"{rows['train']} rows on chr1, {rows['valid']} on chr22 (which stopped the training), {rows['test']} on chr9, "
        f"{int(held.sum())} of them peaks. {minutes:.1f} CPU minutes. Too few to judge an encoder by.",
        "",
        *score_table(report["scores"]["test"]),
        "",
        f"Verdict: **{report['verdict']}**.",
        "",
    ]


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("data", type=Path)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--cache", type=Path, default=Path(".genome"))
    reader.add_argument("--epochs", type=int, default=24)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--lsgkm", type=Path, help="folder of gkmtrain and gkmpredict")
    reader.add_argument("--work", type=Path, default=Path(".gkm"), help="folder for its files")
    reader.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked = reader.parse_args()
    torch.set_num_threads(1)
    head = [
        "# Sequence encoder",
        "",
        "    OMP_NUM_THREADS=1 python benchmarks/dna_encoder.py DATA --out benchmarks/results/dna_encoder.md",
        "",
        "Chromosomes are held out, never random rows. Shapes were chosen on chr4, chr10, chr12 and chr17 of Nanog; "
        "chr8 and chr9 were scored by this command alone.",
        "",
    ]
    makers = {
        "nanog": lambda: nanog_part(asked.data / "dna", asked.epochs, asked.seed, asked.lsgkm, asked.work),
        "presets": lambda: presets_part(asked.data / "dna", asked.seed),
        "open": lambda: open_part(asked.data, asked.cache, asked.epochs, asked.seed),
    }
    lines = [line for name in PARTS if name in asked.parts for line in makers[name]()]
    asked.out.write_text("\n".join([*head, *lines]).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
