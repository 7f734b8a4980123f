"""Training on DNA: with openness, with regions, with neither, without DNA; modes, going on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_dna import DEEP, NEAR, PLAIN, SILENT, moved, train_dna

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError, SyncyteError
from syncyte.genome.gene_windows import SLOTS
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import ENCODER, GeneRun, open_gene_run
from syncyte.tasks.trained import Trained

WEAK = "No ATAC and no --peaks"


@pytest.fixture(scope="module")
def rna(dna_world: Regulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's cells without their openness."""
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.copy()
    path = tmp_path_factory.mktemp("alone") / "rna.h5ad"
    cells.write(path)
    return path


def vectors_of(world: Regulation, path: Path) -> pd.DataFrame:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(150, 6)), index=world.tss["symbol"]).iloc[:120]
    table.to_csv(path)
    return table


def told(run: Trained, words: str) -> bool:
    return any(words in note for note in run.recipe["notes"])


def test_openness_of_the_same_cells_is_learned(dna_run: GeneRun):
    recipe = dna_run.trained.recipe
    assert recipe["encoder"]["source"] == "openness of regions by group"
    assert recipe["encoder"]["tasks"] == ["type_1", "type_2", "type_3"]
    assert not recipe["encoder"]["weak"]
    assert told(dna_run.trained, "150 of 150 genes have a window")
    assert told(dna_run.trained, recipe["encoder"]["verdict"])
    assert recipe["covered"] == 150
    adapter = recipe["adapter"]
    assert adapter["sequence low"] <= adapter["sequence"] <= adapter["sequence high"]
    assert adapter["permuted genes"] == pytest.approx(0.5, abs=0.12)
    assert 0 < adapter["unseen genes"] < adapter["genes"]
    assert 0 <= adapter["unseen sequence low"] <= adapter["unseen sequence"] <= adapter["unseen sequence high"] <= 1
    assert {"mean expression", "first", "explained", "share"} <= set(adapter)


def test_a_run_opens_as_it_was_trained(dna_run: GeneRun, dna_files: dict[str, Path]):
    from syncyte.genome.fasta import Genome

    again = open_gene_run(syncyte.load(dna_run.trained.path, device="cpu"))
    assert torch.equal(again.model.tokens(), dna_run.model.tokens())
    assert np.array_equal(again.medians, dna_run.medians)
    side, notes = again.side(Genome.open(dna_files["genome.fa"]), None, True)
    assert notes == [], "the windows have the bases of the training"
    assert side.names == ("type_1", "type_2", "type_3")
    values = side.vectors(again.windows.fetch(side.genome))
    slots = [one in set(again.windows.links["slot"]) for one in SLOTS]  # a slot that says nothing is not read
    assert slots[0]
    read = np.repeat(slots, again.model.vectors.shape[1] // len(SLOTS))
    expected = again.model.vectors.numpy()[:, read]
    assert again.windows.gather(values)[:, read] == pytest.approx(expected, abs=1e-4)


def test_regions_alone_are_told_from_other_places(rna: Path, dna_files: dict[str, Path], tmp_path: Path):
    run = train_dna(dna_files, tmp_path / "RUN", data=rna, peaks=dna_files["peaks.bed"])
    assert run.recipe["encoder"]["source"] == "regions or not"
    assert run.recipe["encoder"]["tasks"] == ["region"]
    assert not run.recipe["encoder"]["weak"]
    assert "start" in set(open_gene_run(run).windows.table["kind"])


def test_openness_of_other_cells_is_learned(rna: Path, dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    run = train_dna(dna_files, tmp_path / "RUN", data=rna, atac=dna_files["cells.h5mu"])
    assert run.recipe["encoder"]["source"] == "openness of regions by group"
    assert len(open_gene_run(run).windows.table) == len(dna_run.windows.table)


def test_neither_is_weak_and_said_so(rna: Path, dna_files: dict[str, Path], tmp_path: Path):
    run = train_dna(dna_files, tmp_path / "RUN", data=rna)
    assert run.recipe["encoder"]["source"] == "expression of groups"
    assert run.recipe["encoder"]["weak"]
    assert told(run, WEAK)
    assert set(open_gene_run(run).windows.table["kind"]) == {"start"}


def test_vectors_in_the_place_of_dna(rna: Path, dna_world: Regulation, dna_files: dict[str, Path], tmp_path: Path):
    table = vectors_of(dna_world, tmp_path / "vectors.csv")
    none = {"fasta": None, "tss": None}
    run = train_dna(dna_files, tmp_path / "RUN", data=rna, gene_features=tmp_path / "vectors.csv", **none)
    assert told(run, "120 of 150 genes have a vector; the others stay static.")
    model = run.model
    assert torch.equal(model.covered, torch.arange(150) < 120)
    assert model.vectors[:120].numpy() == pytest.approx(table.to_numpy(), abs=1e-5)
    assert torch.equal(model.tokens()[120:], model.static()[120:])
    with pytest.raises(CapabilityError, match=r"no sequence side.*Train it with --fasta and --tss"):
        syncyte.variants(
            run, fasta=dna_files["genome.fa"], cells=rna, vcf=dna_files["variants.vcf"], out=tmp_path / "O", **SILENT
        )
    assert not (tmp_path / "O").exists()


def test_genes_named_by_id_are_matched_and_have_their_symbols(
    dna_world: Regulation, dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path
):
    cells = dna_world.cells.copy()
    ids = [f"ENSG{number:011d}" for number in range(1, 151)]
    cells.mod["rna"].var = pd.DataFrame(index=ids)
    starts = dna_world.tss.assign(gene_id=[f"{one}.7" for one in ids])
    starts.to_csv(tmp_path / "tss.tsv", sep="\t", index=False)
    cells.update_var()
    run = open_gene_run(train_dna(dna_files, tmp_path / "RUN", data=cells, tss=tmp_path / "tss.tsv"))
    assert run.genes.tolist() == ids
    assert run.symbols.tolist() == dna_run.symbols.tolist()
    assert run.model.covered.all()
    assert torch.equal(run.model.table, dna_run.model.table)


def test_ids_beside_names_are_kept_and_matched_first(dna_world: Regulation, dna_files: dict[str, Path], tmp_path: Path):
    """The second column of a gene's names counts where the first says something else."""
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.copy()
    cells.var_names = [f"ALIAS{number}" for number in range(150)]
    dna_world.tss.to_csv(tmp_path / "tss.tsv", sep="\t", index=False)
    run = open_gene_run(train_dna(dna_files, tmp_path / "RUN", data=cells, tss=tmp_path / "tss.tsv"))
    assert run.model.covered.all()
    assert run.symbols[0] == "ALIAS0"
    assert run.trained.vocabularies["rna"]["gene_id"].tolist() == dna_world.tss["gene_id"].tolist()


@pytest.mark.parametrize(("mode", "encoding"), [("replace", "bins"), ("static", "log")])
def test_modes_and_encodings(mode: str, encoding: str, dna_files: dict[str, Path], tmp_path: Path):
    run = train_dna(dna_files, tmp_path / "RUN", (*NEAR, f"mode={mode}", f"encoding={encoding}"))
    assert (run.model.spec.mode, run.model.spec.encoding) == (mode, encoding)
    assert run.recipe["adapter"]["share"] == {"replace": 1.0, "static": 0.0}[mode]
    assert torch.equal(run.model.tokens(), run.model.static()) == (mode == "static")
    found = syncyte.variants(
        run,
        fasta=dna_files["genome.fa"],
        cells=dna_files["cells.h5mu"],
        vcf=dna_files["variants.vcf"],
        out=tmp_path / "O",
        nulls=0,
        close=0,
        **SILENT,
    )
    scored = found.effects[found.effects["status"] == "scored"]
    assert len(scored) > 10
    assert (scored["trans_size"] == 0).all() == (mode == "static"), "the baseline reads no sequence"


def test_a_trained_sequence_model_is_used_as_it_is(dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    folder = dna_run.trained.path / ENCODER
    run = train_dna(dna_files, tmp_path / "RUN", dna_encoder=folder)
    assert run.recipe["encoder"]["source"] == "given"
    assert run.recipe["encoder"]["folder"] == str(folder.resolve())
    assert run.recipe["encoder"]["tasks"] == dna_run.trained.recipe["encoder"]["tasks"]
    assert run.recipe["adapter"]["unseen genes"] == dna_run.trained.recipe["adapter"]["unseen genes"]
    assert not (run.path / ENCODER).exists()
    assert torch.allclose(run.model.vectors, dna_run.model.vectors, atol=1e-5)
    assert open_gene_run(run).encoder.fingerprint == dna_run.encoder.fingerprint
    run.recipe["encoder"]["fingerprint"] = "of another"
    with pytest.raises(DataError, match="another one than the run"):
        open_gene_run(run)


def test_tokens_of_another_run_are_adapted(dna_world: Regulation, dna_files: dict[str, Path], tmp_path: Path):
    from tests.tiny import train_tiny

    from syncyte.models.gene_tables import gene_table

    cells = train_tiny(dna_world.cells, tmp_path / "CELLS", batch_key="donor")
    run = train_dna(dna_files, tmp_path / "RUN", backbone=tmp_path / "CELLS")
    assert told(run, "Tokens are those of the run CELLS: 150 of 150 genes.")
    left = np.linalg.svd(gene_table(cells.model, "rna").astype(float), full_matrices=False)[0][:, :8]
    found = run.model.table.detach().numpy()
    place = cells.vocabularies["rna"].index.get_indexer(run.vocabularies["rna"].index)
    assert np.abs(found.T @ left[place]) == pytest.approx(np.eye(8), abs=1e-3)


def test_a_backbone_of_other_genes_is_refused(dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    from anndata import AnnData

    counts = np.random.default_rng(0).poisson(1.0, (60, 40)).astype(np.float32)
    other = AnnData(counts, var=pd.DataFrame(index=[f"OTHER{number}" for number in range(40)]))
    other.var_names = [f"OTHER{number}" for number in range(40)]
    with pytest.raises(SyncyteError, match=r"backbone|--tss"):
        train_dna(dna_files, tmp_path / "RUN", data=other, backbone=dna_run.trained.path, label_key=None)
    assert not (tmp_path / "RUN" / "model.safetensors").exists()


def test_lora_layers_learn_with_the_adapter_and_are_kept(dna_files: dict[str, Path], tmp_path: Path):
    run = train_dna(dna_files, tmp_path / "RUN", ("lora=2", "reach=3000", *DEEP))
    assert run.model.spec.lora == 2
    second = {name: tensor for name, tensor in run.model.state_dict().items() if "lora_B" in name}
    assert second
    assert any(tensor.abs().sum() > 0 for tensor in second.values()), "LoRA layers did not learn"
    found = syncyte.variants(
        run,
        fasta=dna_files["genome.fa"],
        cells=dna_files["cells.h5mu"],
        vcf=dna_files["variants.vcf"],
        out=tmp_path / "O",
        nulls=0,
        close=0,
        **SILENT,
    )
    assert (found.effects["status"] == "scored").any()


def test_few_cells_have_fewer_coordinates(dna_world: Regulation, dna_files: dict[str, Path], tmp_path: Path):
    run = train_dna(dna_files, tmp_path / "RUN", (*NEAR, "sizes.components=100"))
    assert run.model.table.shape[1] == 50
    assert told(run, "150 genes: 50 coordinates of a gene instead of 100.")


def test_published_medians_are_taken(dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    (tmp_path / "medians.json").write_text(json.dumps({"TF1": 3.5, "TF2": 7.0, "ELSE": 1.0}))
    run = open_gene_run(train_dna(dna_files, tmp_path / "RUN", gene_medians=tmp_path / "medians.json"))
    assert run.medians[:2].tolist() == [3.5, 7.0]
    assert np.array_equal(run.medians[2:], dna_run.medians[2:])


def test_the_same_seed_gives_the_same_run(dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    again = train_dna(dna_files, tmp_path / "RUN")
    assert torch.equal(again.model.tokens(), dna_run.model.tokens())
    assert again.recipe["encoder"]["fingerprint"] == dna_run.trained.recipe["encoder"]["fingerprint"]


@pytest.mark.parametrize("where", ["sequence_side", "adapted_model", "_facts"])
def test_an_interrupted_training_goes_on(
    where: str, dna_deep_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed after the network, after the sequence model, and after the adapter."""

    def killed(*given: object, **more: object):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"syncyte.recipes.train_dna.{where}", killed)
        with pytest.raises(KeyboardInterrupt):
            train_dna(dna_files, tmp_path / "RUN", DEEP)
    with pytest.raises(SyncyteError):
        syncyte.load(tmp_path / "RUN")
    encoded = tmp_path / "RUN" / ENCODER / "encoder.safetensors"
    before = encoded.stat().st_mtime_ns if encoded.exists() else None
    assert (before is None) == (where == "sequence_side")
    run = train_dna(dna_files, tmp_path / "RUN", DEEP, resume=True)
    assert before in (None, encoded.stat().st_mtime_ns), "a sequence model that is finished is not trained again"
    expected = load_file(dna_deep_run.trained.path / "model.safetensors")
    for name, tensor in load_file(run.path / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("missing", ["fasta", "tss"])
def test_half_of_what_dna_needs_is_refused(missing: str, dna_files: dict[str, Path], tmp_path: Path):
    with pytest.raises(ConfigError, match=r"give --fasta .* and --tss .*--gene-features"):
        train_dna(dna_files, tmp_path / "RUN", **{missing: None})
    assert not (tmp_path / "RUN").exists()


def test_dna_and_vectors_at_once_are_refused(dna_world: Regulation, dna_files: dict[str, Path], tmp_path: Path):
    vectors_of(dna_world, tmp_path / "vectors.csv")
    with pytest.raises(ConfigError, match="leave out --fasta"):
        train_dna(dna_files, tmp_path / "RUN", gene_features=tmp_path / "vectors.csv")


def test_other_recipes_read_no_dna(dna_files: dict[str, Path], tmp_path: Path):
    with pytest.raises(ConfigError, match=r"clm_x reads no DNA: leave out --fasta and --tss, or train bio_dta"):
        syncyte.train(
            "clm_x",
            dna_files["cells.h5mu"],
            out=tmp_path / "RUN",
            fasta=dna_files["genome.fa"],
            tss=dna_files["tss.bed"],
            **SILENT,
        )


def test_starts_of_other_genes_are_refused(dna_files: dict[str, Path], tmp_path: Path):
    (tmp_path / "tss.bed").write_text("chr1\t10\t11\tNOBODY\t0\t+\n")
    with pytest.raises(DataError, match=r"None of the 150 genes .* is among the 1 of --tss"):
        train_dna(dna_files, tmp_path / "RUN", tss=tmp_path / "tss.bed")
    assert not (tmp_path / "RUN").exists()


def test_a_genome_without_any_gene_is_refused_before_training(dna_files: dict[str, Path], tmp_path: Path):
    (tmp_path / "genome.fa").write_text(">chrZ\n" + "ACGT" * 3000 + "\n")
    with pytest.raises(DataError, match=r"covers chrZ:0-12,000 and no window of 400 bases.*Check build and --offset"):
        train_dna(dna_files, tmp_path / "RUN", fasta=tmp_path / "genome.fa")
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("g,a\nTF1,x\nTF2,y\n", "must hold numbers"),
        ("g,a\nTF1,1\nTF1,2\n", "repeats a gene"),
        ("g,a\nTF1,1\nTF2,\n", "missing numbers"),
        ("g,a\nX,1\nY,2\n", "0 of 150 genes are in the table"),
        (None, "does not exist"),
    ],
    ids=["words", "twice", "holes", "other genes", "missing"],
)
def test_vectors_that_cannot_be_used_are_refused(
    text: str | None, words: str, rna: Path, dna_files: dict[str, Path], tmp_path: Path
):
    path = tmp_path / "vectors.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=words):
        train_dna(dna_files, tmp_path / "RUN", data=rna, fasta=None, tss=None, gene_features=path)


def test_cells_without_genes_are_refused(dna_world: Regulation, dna_files: dict[str, Path], tmp_path: Path):
    cells = dna_world.cells["atac"].copy()
    cells.write(tmp_path / "atac.h5ad")
    with pytest.raises(DataError, match="learns from 'rna'"):
        train_dna(dna_files, tmp_path / "RUN", data=tmp_path / "atac.h5ad", label_key=None)


def test_lite_has_no_attention_and_tiny_has():
    from syncyte.recipes.base import recipes
    from syncyte.recipes.train import configure

    sizes = {name: configure("bio_dta", name, ()).sizes.layers for name in recipes["bio_dta"].presets}
    assert sizes == {"tiny": 1, "lite": 0, "small": 0, "base": 6}
    assert set(PLAIN) <= set(NEAR)


def test_another_token_moves_other_genes(dna_run: GeneRun, dna_world: Regulation):
    from tests.tiny_dna import network_of

    change = network_of(dna_run, dna_world).respond(0, moved(dna_run, 0)[None]).change
    assert np.isfinite(change).all()
    assert np.abs(change).max() > 0
