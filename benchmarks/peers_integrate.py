"""Embeddings of other integration methods, for ``integrate_kang.py`` to score.

Runs in an environment of its own with scvi-tools, harmonypy and scanpy (it does not import syncyte):

    OMP_NUM_THREADS=1 python benchmarks/peers_integrate.py DATA.h5ad --batch-key donor --out FOLDER [--seeds 0 1 2]

Writes one ``METHOD_SEED.npz`` each (``embedding`` (cells, d), ``seconds``, ``epochs``), and skips what is there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np


def pca(adata, seed):
    """PCA 50 of log1p counts per 10,000, all genes and the 1,000 most variable ones."""
    import scanpy as sc

    found = {}
    for name, top in (("pca", None), ("pca_hvg", 1000)):
        work = adata.copy()
        sc.pp.normalize_total(work, target_sum=1e4)
        sc.pp.log1p(work)
        if top:
            sc.pp.highly_variable_genes(work, n_top_genes=top)
            work = work[:, work.var["highly_variable"]].copy()
        sc.pp.pca(work, n_comps=50, random_state=seed)
        found[name] = work.obsm["X_pca"]
    return found


def harmony(points, obs, key, seed):
    """Harmony with its defaults."""
    import harmonypy

    result = np.asarray(harmonypy.run_harmony(points, obs, [key], random_state=seed, verbose=False).Z_corr)
    return result if result.shape == points.shape else result.T


def scvi(adata, key, seed, epochs, **sizes):
    """scVI: ``epochs`` None stops early on a tenth of the cells, at most 400."""
    import scvi as package

    package.settings.seed = seed
    work = adata.copy()
    package.model.SCVI.setup_anndata(work, batch_key=key)
    model = package.model.SCVI(work, **sizes)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "logger": False}
    if epochs:
        model.train(max_epochs=epochs, **quiet)
    else:
        model.train(max_epochs=400, early_stopping=True, check_val_every_n_epoch=1, **quiet)
    return model.get_latent_representation(), model.trainer.current_epoch


def main():
    """Run every method for every seed."""
    import anndata
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["linear", "scvi80", "scvi", "scvi_nb80", "scvi_nb"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    adata = anndata.read_h5ad(options.data)
    adata.obs[options.batch_key] = adata.obs[options.batch_key].astype(str).astype("category")
    wide = {"n_layers": 2, "n_latent": 30, "gene_likelihood": "nb"}
    plans = {"scvi80": (80, {}), "scvi": (None, {}), "scvi_nb80": (80, wide), "scvi_nb": (None, wide)}
    for method in options.methods:
        for seed in options.seeds:
            start = time.process_time()
            if method == "linear":
                for name, points in pca(adata, seed).items():
                    save(options.out / f"{name}_{seed}.npz", points, time.process_time() - start, 0)
                    start = time.process_time()
                    after = harmony(points, adata.obs, options.batch_key, seed)
                    save(options.out / f"{name}_harmony_{seed}.npz", after, time.process_time() - start, 0)
                continue
            path = options.out / f"{method}_{seed}.npz"
            if path.exists():
                continue
            epochs, sizes = plans[method]
            points, ran = scvi(adata, options.batch_key, seed, epochs, **sizes)
            save(path, points, time.process_time() - start, ran)
            print(path.name, ran, "epochs", round(time.process_time() - start), "s", flush=True)


def save(path, points, seconds, epochs):
    """Write one embedding."""
    np.savez_compressed(path, embedding=np.asarray(points, dtype=np.float32), seconds=seconds, epochs=epochs)


if __name__ == "__main__":
    main()
