"""A trained cell model with its vocabularies, ready for tasks.

Cells of any file are first put into the model's feature space by name; what was found is in their report. Passes over
cells (``each``) are shared by the processes there are (``together``); a task reads the same with one or with several.
Leaves out: training (``recipes``), writing results (``tasks.write``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.load import predict_batches
from syncyte.errors import CapabilityError, DataError
from syncyte.modalities import Tokenizer, modalities
from syncyte.models.assemble import CellSpec, empty_model
from syncyte.models.genes import GeneModel, GeneSpec
from syncyte.models.sets import ALL_TOKENS, SetModel, SetSpec
from syncyte.train.checkpoint import Checkpoint, load_checkpoint, load_weights
from syncyte.train.crew import Crew
from syncyte.train.distributed import resolve_device, start_worker
from syncyte.types import Batch

MINIBATCH = 512  # cells
T = TypeVar("T")
Compute = Callable[["Trained", Batch], T]


@dataclass(frozen=True)
class Trained:
    """A model and all it needs.

    Attributes
    ----------
    path
        RUN folder.
    recipe
        Configuration and facts of its training.
    model
        A cell model or a set model, in evaluation mode on ``device``; tasks ask for what it can (``need_capability``).
    vocabularies
        Features of each modality.
    tokenizers
        Counts to tokens, by modality.
    axes
        Scale of each axis of an embedding, and what depth adds to it; see ``recipes.axes``.
    strengths
        By modality, ``(k_m,)`` singular value of each linear latent over the first of its group.
    device
        Where it computes.
    card, metrics
        Summary and numbers of the training.
    arrays
        All preprocessing of the checkpoint, by name.
    tables
        Tables of the checkpoint that are no vocabularies, by name.
    crew
        The processes that share the passes over cells; None where this one works alone.
    """

    path: Path
    recipe: dict[str, Any]
    model: Any
    vocabularies: dict[str, pd.DataFrame]
    tokenizers: dict[str, Tokenizer]
    axes: dict[str, NDArray[np.float32]]
    strengths: dict[str, NDArray[np.float32]]
    device: torch.device
    card: dict[str, Any]
    metrics: dict[str, Any]
    crew: Crew | None = None
    arrays: dict[str, NDArray] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities the model knows."""
        return self.model.names

    def need(self, modality: str) -> None:
        """Refuse a modality the model does not know."""
        if modality not in self.modalities:
            raise CapabilityError(
                f"The run {self.path} was trained on {' and '.join(self.modalities)} and knows no {modality!r}. "
                f"Train on cells that have {modality!r}, or ask for one of these."
            )

    def can(self, capability: str) -> bool:
        """Whether the model has a capability: ``encodes``, ``decodes`` (one modality from another), ``generates``."""
        return capability in self.model.capabilities

    def need_capability(self, capability: str, task: str) -> None:
        """Refuse a task that the model has not what it takes for."""
        if not self.can(capability):
            raise CapabilityError(
                f"The run {self.path} is a {self.recipe['config']['name']} run, which cannot {task}. Train a recipe "
                "that can: syncyte train --help says which."
            )

    def align(self, cells: Cells, only: tuple[str, ...] | None = None) -> Cells:
        """Cells in the model's feature space, modalities it does not know (or that are not asked for) gone."""
        wanted = [name for name in (only or self.modalities) if name in cells.modalities]
        if not wanted:
            found = ", ".join(cells.modalities) or "none"
            raise DataError(
                f"The run {self.path} reads {' and '.join(only or self.modalities)}; the cells have {found}. "
                "Give cells that hold one of these, or name what a plain .h5ad holds with --modality."
            )
        aligned = cells.only(wanted)
        for name in wanted:
            aligned = aligned.align(name, self.vocabularies[name].index)
        return aligned

    def batches(self, cells: Cells, batch_size: int | None = None) -> Iterator[Batch]:
        """Minibatches of aligned cells, in their order, on the model's device."""
        for batch in predict_batches(cells, self.tokenizers, batch_size or MINIBATCH):
            yield batch.to(self.device)

    def each(self, cells: Cells, compute: Compute[T], batch_size: int | None = None) -> Iterator[T]:
        """Give ``compute(trained, minibatch)`` of every minibatch of aligned cells, in their order.

        Several processes share the minibatches, so ``compute`` must pickle (a function of a module, or a ``partial``
        of one) and give arrays in the computer's memory.
        """
        size = batch_size or MINIBATCH
        if self.crew is None:
            return self._share(cells, compute, size, 0, 1)
        bare = replace(cells, obs=cells.obs[[]].reset_index(drop=True), report={})  # all that a pass needs
        own = self._share(cells, compute, size, 0, self.crew.world)
        return self.crew.deal((bare, compute, size), -(-len(cells) // size), own)

    @torch.inference_mode()
    def _share(self, cells: Cells, compute: Compute[T], size: int, rank: int, world: int) -> Iterator[T]:
        for batch in predict_batches(cells, self.tokenizers, size, rank=rank, world=world):
            yield compute(self, batch.to(self.device))

    def provenance(self, cells: Cells | None, **settings: Any) -> dict[str, Any]:
        """What a result should say about where it comes from."""
        import datetime
        from importlib.metadata import version

        return {
            "recipe": self.recipe["config"]["name"],
            "preset": self.recipe["config"]["preset"],
            "run": str(self.path),
            "run_fingerprint": self.recipe.get("fingerprint", ""),
            "syncyte": version("syncyte"),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "settings": settings,
            "coverage": {} if cells is None else cells.report,
        }


def together(run: str | Path | Trained, device: str, work: Callable[[Trained], T]) -> T:
    """Give ``work(trained)``, in every process that ``torchrun`` started.

    The first process does the work; the others lend a hand in its passes over cells and are given the result.

    Parameters
    ----------
    run
        RUN folder, or a run that is loaded.
    device
        Where to compute, see ``start_worker``.
    work
        What is to be done; it writes and prints as if alone.

    Raises
    ------
    Dismissed
        In the others, where the first process fails.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if isinstance(run, Trained) and (alone or run.crew is not None):
        return work(run)
    if alone:
        return work(load_trained(run, device))  # type: ignore[arg-type]
    worker = start_worker(device)
    crew = Crew(worker)
    trained, problem = None, None
    try:
        trained = run if isinstance(run, Trained) else from_checkpoint(load_checkpoint(run), worker.device)
    except Exception as error:
        problem = error
    crew.agree(problem)
    assert trained is not None
    if crew.rank:
        return crew.serve(functools.partial(_perform, trained))
    return crew.lead(functools.partial(work, replace(trained, crew=crew)))


def _perform(trained: Trained, job: tuple[Cells, Compute[Any], int], rank: int, world: int) -> Iterator[Any]:
    return trained._share(*job, rank, world)


def load_trained(run: str | Path, device: str = "auto") -> Trained:
    """Load a finished run; every file is checked and nothing in it is executed."""
    kind, index = resolve_device(device)
    place = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    return from_checkpoint(load_checkpoint(run), place)


def from_checkpoint(checkpoint: Checkpoint, device: torch.device) -> Trained:
    """Build the model that a checkpoint describes and fill it, strictly."""
    if checkpoint.recipe.get("kind") == "sets":
        return _sets(checkpoint, device)
    if checkpoint.recipe.get("kind") == "genes":
        return _genes(checkpoint, device)
    recipe = checkpoint.recipe
    spec = CellSpec.parse(recipe["spec"])
    config = recipe["config"]
    vocabularies = {name: checkpoint.vocabularies[name] for name in spec.modalities}
    layouts = {
        name: modalities[name].layout(
            var, tokens=config["tokens"][name], groups=config["groups"].get(name, 0), slots=config["slots"].get(name, 0)
        )
        for name, var in vocabularies.items()
    }
    with torch.random.fork_rng(devices=[]):  # weights are drawn and thrown away: the caller's random state stays
        model = empty_model(spec, layouts)
    load_weights(model, checkpoint.weights, checkpoint.path)
    model.to(device).eval()
    shares = {name: model.paths[name].share.cpu().numpy().astype(np.float32) for name in vocabularies}
    tokenizers = {name: Tokenizer(layouts[name], shares[name]) for name in vocabularies}
    axes = {name: array for name, array in checkpoint.preprocessing.items() if name.startswith("embedding.")}
    strengths = {name: checkpoint.preprocessing[f"{name}.strength"] for name in vocabularies}
    # runs written before axes were stored scale by strength alone
    axes.setdefault("embedding.scale", strengths[model.names[0]][: spec.components])
    return Trained(
        checkpoint.path,
        recipe,
        model,
        vocabularies,
        tokenizers,
        axes,
        strengths,
        device,
        checkpoint.card,
        checkpoint.metrics,
        arrays=checkpoint.preprocessing,
    )


def _genes(checkpoint: Checkpoint, device: torch.device) -> Trained:
    """The same for a gene network."""
    spec = GeneSpec.parse(checkpoint.recipe["spec"])
    with torch.random.fork_rng(devices=[]):
        model = GeneModel(spec)
    load_weights(model, checkpoint.weights, checkpoint.path)
    model.to(device).eval()
    own = checkpoint.vocabularies[spec.modality]
    return Trained(
        checkpoint.path,
        checkpoint.recipe,
        model,
        {spec.modality: own},
        {},
        {},
        {},
        device,
        checkpoint.card,
        checkpoint.metrics,
        arrays=checkpoint.preprocessing,
        tables={key: table for key, table in checkpoint.vocabularies.items() if key != spec.modality},
    )


def _sets(checkpoint: Checkpoint, device: torch.device) -> Trained:
    """The same for a set model."""
    spec, config = SetSpec.parse(checkpoint.recipe["spec"]), checkpoint.recipe["config"]
    with torch.random.fork_rng(devices=[]):
        model = SetModel(spec)
    load_weights(model, checkpoint.weights, checkpoint.path)
    model.to(device).eval()
    name, arrays = spec.modality, checkpoint.preprocessing
    var = checkpoint.vocabularies[name]
    layout = modalities[name].layout(var, tokens=config["tokens"] or ALL_TOKENS, groups=config["groups"])
    return Trained(
        checkpoint.path,
        checkpoint.recipe,
        model,
        {name: var},
        {name: Tokenizer(layout, arrays["share"].astype(np.float32))},
        {key: array for key, array in arrays.items() if key.startswith("embedding.")},
        {},
        device,
        checkpoint.card,
        checkpoint.metrics,
        arrays=arrays,
        tables={key: table for key, table in checkpoint.vocabularies.items() if key != name},
    )
