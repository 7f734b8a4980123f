"""A whole evaluation on simulated cells: which tables, what is said where something cannot be scored."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pandas as pd
import pytest
from tests.examples import small_cells

import syncyte
from syncyte.data.read import open_cells
from syncyte.errors import DataError
from syncyte.genome.reference import build_reference
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.report.build import report_from_evaluation
from syncyte.report.write import write_report, write_tables
from syncyte.tasks import compare_embed, evaluate
from syncyte.tasks.compare_translate import gene_starts
from syncyte.tasks.evaluate import evaluate_cells
from syncyte.tasks.result import Result
from syncyte.tasks.trained import load_trained
from syncyte.tasks.work import sample_cells


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    import syncyte.recipes  # noqa: F401 - registers the recipes

    cells = open_cells(small_cells(360, types=3), schemas=all_schemas())
    rng = np.random.default_rng(0)
    held = np.sort(rng.choice(360, 110, replace=False))
    known = np.setdiff1d(np.arange(360), held)
    run = tmp_path_factory.mktemp("evaluate") / "run"
    train_recipe(
        configure("clm_x", "tiny"),
        cells.take(known),
        run,
        batch_key="batch",
        label_key="cell_type",
        quiet=True,
        device="cpu",
    )
    return load_trained(run, "cpu"), cells.take(held), cells.take(known)


def skip_graphs(patch):
    """Leave UMAP and Leiden, which compile for many seconds, to their own tests."""
    patch.setattr(evaluate, "umap_coordinates", lambda values, seed: (np.arange(len(values)), values[:, :2]))
    patch.setattr("syncyte.metrics.embedding.leiden_agreement", lambda near, labels, seed: {"nmi": 0.5, "ari": 0.5})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave fine-tuning to its own tests."""

    def annotate_cells(trained, query, reference, label_key, **settings):
        labels = query.obs[label_key].astype(str).to_numpy()
        return Result(
            "annotate",
            query.names,
            obs={f"syncyte_{label_key}": labels, "syncyte_confidence": np.full(len(labels), 0.9)},
        )

    monkeypatch.setattr("syncyte.tasks.annotate.annotate_cells", annotate_cells)
    skip_graphs(monkeypatch)


@pytest.fixture(scope="module")
def whole(world):
    trained, held, known = world
    patch = pytest.MonkeyPatch()
    skip_graphs(patch)
    keys = {"batch_key": "batch", "label_key": "cell_type", "tasks": ("translate", "embed")}
    found = evaluate_cells(trained, held, known, **keys, quiet=True)
    patch.undo()
    return found


def test_translation_tables_hold_model_baselines_and_oracles(whole):
    for key, headline in (("translate rna to atac", "auroc"), ("translate atac to rna", "r")):
        table = whole.tables[key]
        assert table.columns[0] == headline
        assert table.index[0] == "syncyte tiny" == whole.model
        wanted = {"mean profile", "mean x depth", "kNN-50", "linear start", "oracle: cell-type mean"}
        assert wanted <= set(table.index) and sum("ridge" in name for name in table.index) == 2
        assert table.loc["syncyte tiny", headline] > table.loc["mean profile", headline]
        assert (table[f"{headline}_low"] <= table[headline]).all() and (
            table[f"{headline}_high"] >= table[headline]
        ).all()
        assert len(whole.arrays[key]["per_feature"]) == len(whole.arrays[key]["names"])
        assert "2 technical batches" in whole.text[key] and "linear path" in whole.text[key]
    assert {"predicted", "observed", "entries"} <= set(whole.tables["translate rna to atac reliability"])
    assert whole.tables["translate atac to rna"].loc["mean profile", "r"] == 0


def test_embedding_table_pairs_and_provenance(whole, world):
    table = whole.tables["embed"]
    assert {"syncyte tiny", "syncyte tiny, rna alone", "PCA (rna)", "LSI (atac)"} <= set(table.index)
    assert table["nmi"].between(0, 1).all()
    pairs = whole.tables["embed pairs"]
    assert {"syncyte tiny", "linear start", "ridge, rna to atac", "ridge, atac to rna"} == set(pairs.index)
    assert pairs.loc["ridge, rna to atac", "foscttm"] < 0.45  # better than chance on cells with structure
    assert set(whole.arrays["umap"]) == {"coordinates", "label", "batch"}
    assert set(whole.tables["training"]["split"]) >= {"train"}
    assert whole.provenance["preset"] == "tiny" and whole.provenance["coverage"]


def test_the_report_takes_it(whole):
    titles = [section.title for section in report_from_evaluation(whole).sections]
    assert titles[0] == "Summary" and "Embedding" in titles and any(title.startswith("Translate") for title in titles)


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """A reference folder that holds the simulated genes."""
    folder = tmp_path_factory.mktemp("genome")
    var = small_cells(20, types=3)["rna"].var
    forward = var["strand"].astype(str).to_numpy() == "+"
    table = pd.DataFrame({"gene_id": var["gene_ids"], "symbol": var.index, "chrom": var["chrom"]})
    table["start"] = np.where(forward, var["tss"] + 1, var["tss"] - 998)
    table["end"] = np.where(forward, var["tss"] + 1000, var["tss"] + 1)
    table.assign(strand=var["strand"], biotype="protein_coding").to_csv(folder / "genes.csv", index=False)
    return build_reference(folder / "ref", genes=folder / "genes.csv", name="simulated")


def test_a_reference_with_genes_brings_gene_activity(world, genome):
    trained, held, known = world
    starts = gene_starts(trained, genome)
    truth = small_cells(20, types=3)["rna"].var.loc[starts["gene"]]
    assert len(starts) == len(trained.vocabularies["rna"]) and set(starts["strand"]) == {"+", "-"}
    assert (starts["position"].to_numpy() == truth["tss"].to_numpy()).all()
    found = evaluate_cells(trained, held, known, starts=starts, tasks=("translate",), quiet=True)
    rows = {name for name in found.tables["translate atac to rna"].index if name.startswith("gene activity")}
    assert rows == {"gene activity, promoter", "gene activity, distance"}
    assert not any(name.startswith("gene activity") for name in found.tables["translate rna to atac"].index)
    assert "--genome" not in found.text["translate atac to rna"]


def test_regions_are_listed_with_legends_in_report_and_files(world, genome, tmp_path):
    trained, held, known = world
    how = {"label_key": "cell_type", "tasks": ("regions",), "quiet": True}
    found = evaluate_cells(trained, held, known, starts=gene_starts(trained, genome), genes=genome.genes, **how)
    types, genes = found.tables["top_regions"], found.tables["gene_regions"]
    assert len(types) == 3 * 10 and {"score", "observed", "open_in", "gene", "promoter"} <= set(types)
    assert len(genes) == 50 * 10 and {"effect", "moved", "distance", "near"} <= set(genes)
    assert "held-out cells" in found.text["top_regions"] and "at random" in found.text["gene_regions"]
    report = report_from_evaluation(found)
    assert {"Top regions of cell types", "Regions that move predicted genes"} <= {
        item.title for item in report.sections
    }
    page, _ = write_report(report, tmp_path)
    assert types["region"].iloc[0] in page.read_text(encoding="utf-8")
    assert [path.name for path in write_tables(found.tables, tmp_path)] == ["top_regions.csv", "gene_regions.csv"]
    assert list(pd.read_csv(tmp_path / "top_regions.csv")["region"]) == list(types["region"])
    bare = evaluate_cells(trained, held, known, label_key=None, tasks=("regions",), quiet=True)
    assert "top_regions" not in bare.tables and "at least two labels" in bare.text["notes"]
    assert "--genome" in bare.text["gene_regions"] and "distance" not in bare.tables["gene_regions"]


def test_a_reference_without_genes_brings_none(world, tmp_path):
    (tmp_path / "sizes").write_text("chr1\t1000\n")
    assert gene_starts(world[0], build_reference(tmp_path / "bare", chrom_sizes=tmp_path / "sizes")) is None


def test_unclear_labels_count_as_none(world):
    trained, held, known = world
    types = sorted(set(held.obs["cell_type"].astype(str)))
    work = _work(world)
    work.unclear = (types[0],)
    labels = work.labels_of(held)
    assert set(labels) == {"", *types[1:]} and (labels == "").sum() == (held.obs["cell_type"] == types[0]).sum()
    evaluate._annotate(work)
    assert types[0] not in set(work.arrays["annotate"]["truth"])
    told = evaluate_cells(trained, held, known, label_key="cell_type", unclear=[types[0]], tasks=(), quiet=True)
    assert "have an unclear label" in told.text["notes"] and told.provenance["settings"]["unclear"] == [types[0]]


def test_placeholders_and_blanks_are_the_same_to_the_model_and_its_baselines(world):
    work = _work(world)
    said = np.array(work.held.obs["cell_type"].astype(str), dtype=object)
    said[:5], said[5:9] = "Unassigned", [f" {name} " for name in said[5:9]]
    work.held = dataclasses.replace(work.held, obs=work.held.obs.assign(cell_type=said))
    known = np.array(work.reference.obs["cell_type"].astype(str), dtype=object)
    known[:40] = "unassigned"
    work.reference = dataclasses.replace(work.reference, obs=work.reference.obs.assign(cell_type=known))
    evaluate._annotate(work)
    assert len(work.arrays["annotate"]["truth"]) == len(work.held) - 5
    assert not {"Unassigned", "unassigned"} & set(work.arrays["annotate"]["truth"])
    assert all(name == name.strip() for name in work.arrays["annotate"]["truth"])
    assert f"learned from {len(work.reference) - 40}" in work.text["annotate"]


def test_the_verb_hands_on_genome_and_unclear_labels(world, genome, monkeypatch):
    trained, held, known = world
    given = {}
    monkeypatch.setattr(evaluate, "evaluate_cells", lambda *cells, **settings: given.update(settings))
    syncyte.evaluate(trained, held, reference=known, genome=genome.path, unclear=("doublet",))
    assert given["unclear"] == ("doublet",) and len(given["starts"]) == len(trained.vocabularies["rna"])
    assert len(given["genes"]) == len(genome.genes)
    syncyte.evaluate(trained, held, reference=known)
    assert given["unclear"] == () and given["starts"] is None and given["genes"] is None


def test_annotation_stands_beside_baselines(world):
    trained, held, known = world
    work = _work(world)
    evaluate._annotate(work)
    table = work.tables["annotate"]
    assert table.loc["syncyte tiny", "accuracy"] == 1.0 and table.loc["syncyte tiny", "ece"] == pytest.approx(0.1)
    assert sum("logistic" in name for name in table.index) == 6  # plain and balanced, on three spaces of the regions
    assert any("LSI without its first axis" in name for name in table.index)
    assert (table["accuracy_low"] <= table["accuracy"]).all() and "2 technical batches" in work.text["annotate"]
    best = table.drop(index="syncyte tiny")["accuracy"].max()
    assert table.loc["majority class", "accuracy"] < best
    assert len(work.arrays["annotate"]["truth"]) == len(held)
    assert trained.modalities == ("rna", "atac") and len(known) == 250


def test_integration_borrows_reference_cells_when_one_batch_is_held_out(world, monkeypatch):
    def integrate_cells(trained, cells, **settings):
        return Result("integrate", cells.names, obsm={"X_syncyte_integrated": np.eye(len(cells), 4, dtype=np.float32)})

    fake = types.ModuleType("syncyte.tasks.integrate")
    fake.integrate_cells = integrate_cells
    monkeypatch.setitem(sys.modules, "syncyte.tasks.integrate", fake)
    trained, held, known = world
    first = held.obs["batch"].astype(str).to_numpy() == "batch_1"
    work = _work((trained, held.take(first), known))
    evaluate._integrate(work)
    assert "beside as many of the reference" in work.text["integrate"]
    table = work.tables["integrate"]
    assert {"syncyte tiny", "syncyte tiny, not integrated", "PCA (rna)"} <= set(table.index)
    assert table["overall"].between(0, 1).all()


def test_what_is_missing_is_said(world):
    trained, held, known = world
    alone = evaluate_cells(trained, held.only(["rna"]), known, quiet=True)
    assert not any(key.startswith("translate") or key == "annotate" for key in alone.tables)
    notes = alone.text["notes"]
    assert "Translation is not scored" in notes and "no label column" in notes and "Integration is not scored" in notes
    assert "No labels" in alone.text["embed"]


def test_cells_of_the_reference_are_left_out_or_warned_about(world):
    _, held, known = world
    notes: list[str] = []
    mixed = compare_embed.stack_cells(held, known.take(np.arange(5)))
    assert len(evaluate._new_cells(mixed, known, notes)) == len(held) and "5 cells are in the reference" in notes[0]
    assert len(evaluate._new_cells(known, known, notes)) == len(known) and "WARNING" in notes[1]


def test_columns_of_the_run_may_be_absent_others_may_not(world):
    trained, held, known = world
    bare = dataclasses.replace(held, obs=held.obs.drop(columns="cell_type"))
    notes: list[str] = []
    assert evaluate._key(trained, "label_key", "cell_type", bare, known, notes) is None and "no column" in notes[0]
    with pytest.raises(DataError, match="lineag"):
        evaluate._key(trained, "label_key", "lineages", held, known, notes)


def test_large_sets_are_sampled_and_tiny_ones_refused(world):
    _, held, _ = world
    notes: list[str] = []
    assert len(sample_cells(held, 50, 0, "held-out", notes)) == 50 and "random 50" in notes[0]
    with pytest.raises(DataError, match="at least 20"):
        sample_cells(held.take(np.arange(3)), 50, 0, "held-out", notes)


def _work(world) -> evaluate.Work:
    trained, held, known = world
    return evaluate.Work(
        trained,
        "syncyte tiny",
        trained.align(held),
        trained.align(known),
        "batch",
        "cell_type",
        0,
        lambda text: None,
    )


def test_stacked_cells_read_as_their_parts(world):
    _, held, known = world
    both = compare_embed.stack_cells(held, known)
    expected = np.concatenate([compare_embed.depths(held, "rna"), compare_embed.depths(known, "rna")])
    assert np.array_equal(compare_embed.depths(both, "rna"), expected)
    assert isinstance(both.obs, pd.DataFrame) and both.names.is_unique
