"""MultiVI's translations of held-out technical batches, for the table of ``benchmarks/translate_cortex.py``.

    python benchmarks/peers_multivi.py cortex.h5mu --test 09C 09J --validation 09A --out multivi_09C_09J.npz

Needs scvi-tools (the ``bench`` extra), which may live in an environment of its own: only ``syncyte.baselines`` is used.
Library defaults: paired training cells, early stopping on the validation batch, at most 400 epochs; one model for both
directions; test cells enter with one modality, the other is hidden by zeros. Level and scale of its predictions are
those of ``baselines.deep.MultiVI``. ``--hours`` ends training early, which the file says (``stopped``).
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from syncyte.baselines.deep import MOST_EPOCHS, MultiVI
from syncyte.baselines.mean import MeanTimesDepth
from syncyte.baselines.prediction import fit_scale, log_cp10k


def train(both: Any, validation: np.ndarray, epochs: int, hours: float, seed: int) -> tuple[Any, int, str]:
    """Train with early stopping on the given rows: model, epochs used, and what ended it."""
    import scvi
    from lightning.pytorch.callbacks import Timer

    scvi.settings.seed = seed
    scvi.model.MULTIVI.setup_mudata(both, modalities={"rna_layer": "genes", "atac_layer": "regions"})
    model = scvi.model.MULTIVI(both)
    rows = np.arange(both.n_obs)
    split = [np.setdiff1d(rows, validation), validation, np.array([], dtype=int)]
    timer = Timer(duration={"hours": hours}, interval="epoch")
    model.train(
        max_epochs=epochs,
        early_stopping=True,
        enable_progress_bar=False,
        datasplitter_kwargs={"external_indexing": split},
        callbacks=[timer],
    )
    used = len(model.history["reconstruction_loss_validation"])
    over = timer.time_remaining() is not None and timer.time_remaining() <= 0
    return model, used, "time" if over else "early stopping" if used < epochs else "epochs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--validation", nargs="+", required=True)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=MOST_EPOCHS)
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    import mudata
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cells = mudata.read_h5mu(given.data)
    batch = cells["rna"].obs[given.batch_key].astype(str).to_numpy()
    test, chosen = np.isin(batch, given.test), np.flatnonzero(~np.isin(batch, given.test))
    names = cells["rna"].obs_names
    genes, regions = (sp.csr_matrix(cells[name][names].X, dtype=np.float32) for name in ("rna", "atac"))
    opens, values = MultiVI("open", seed=given.seed), MultiVI("values", seed=given.seed)
    begin, used_cpu = time.time(), time.process_time()
    both = opens._paired(genes[chosen], regions[chosen])
    validation = np.flatnonzero(np.isin(batch[chosen], given.validation))
    model, epochs, stopped = train(both, validation, given.epochs, given.hours, given.seed)
    print(f"{epochs} epochs ({stopped}), {time.process_time() - used_cpu:.0f} CPU s, {time.time() - begin:.0f} s")
    opens.model, opens.width = model, regions.shape[1]
    opens.level = MeanTimesDepth("open").fit(genes[chosen], regions[chosen])
    values.model, values.width = model, genes.shape[1]
    values.slope, values.intercept = fit_scale(values._decoded(regions[chosen]), log_cp10k(genes[chosen]))
    facts = {"epochs": epochs, "stopped": stopped, "cpu_seconds": time.process_time() - used_cpu}
    with given.out.open("wb") as file:
        np.savez(
            file,
            cells=names[test].to_numpy(str),
            genes=cells["rna"].var_names.to_numpy(str),
            regions=cells["atac"].var_names.to_numpy(str),
            rna=values.predict(regions[test])(np.arange(genes.shape[1])),
            atac=opens.predict(genes[test])(np.arange(regions.shape[1])),
            **facts,
        )


if __name__ == "__main__":
    main()
