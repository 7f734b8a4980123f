"""The embedded gene table: unique, inside chromosomes, small."""

from __future__ import annotations

from importlib.resources import files

from syncyte.genome.symbols import CHROM_SIZES, known_genes


def test_table_is_sound():
    genes = known_genes()
    assert len(genes) > 600
    assert genes.index.is_unique and genes["gene_ids"].is_unique
    assert genes["gene_ids"].str.fullmatch(r"ENSG\d{11}").all()
    assert genes["strand"].isin(["+", "-"]).all()
    assert set(genes["chrom"]) == set(CHROM_SIZES)
    assert genes["tss"].between(1, genes["chrom"].map(CHROM_SIZES) - 1).all()
    assert (genes["known_for"] != "").all()
    order = genes["chrom"].map({name: rank for rank, name in enumerate(CHROM_SIZES)}) * 1e9 + genes["tss"]
    assert order.is_monotonic_increasing


def test_known_places():
    genes = known_genes()
    for symbol, chrom, strand, mega in (
        ("GATA4", "chr8", "+", 11.704),
        ("TBX5", "chr12", "-", 114.408),
        ("CD34", "chr1", "-", 207.911),
    ):
        row = genes.loc[symbol]
        assert (row["chrom"], row["strand"]) == (chrom, strand)
        assert abs(row["tss"] / 1e6 - mega) < 0.001


def test_every_call_gives_a_fresh_table():
    known_genes().drop(columns="tss", inplace=True)
    assert "tss" in known_genes()


def test_table_is_small():
    assert len((files("syncyte.genome") / "symbols.tsv").read_bytes()) < 40_000
