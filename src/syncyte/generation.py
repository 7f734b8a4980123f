"""Verbs that make cells: ``generate`` and ``perturb``. ``api`` hands them on beside its own verbs.

Leaves out: all science (tasks) and all formatting (cli).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.errors import ConfigError
from syncyte.files import check_out, open_data, read_features

if TYPE_CHECKING:
    from syncyte.tasks.generate import Generated
    from syncyte.tasks.perturb import Perturbed
    from syncyte.tasks.result import Result
    from syncyte.tasks.trained import Trained


def generate(
    run: Any,
    *,
    n: int = 1000,
    where: Sequence[str] | Mapping[str, Any] = (),
    mode: str = "new",
    cells: Any = None,
    between: Sequence[Any] = (),
    stops: int = 5,
    key: str | None = None,
    least: int | None = None,
    steps: int = 8,
    guidance: float = 1.0,
    reference: Sequence[str] | Mapping[str, Any] = (),
    settings: Sequence[str] = (),
    depth: str | float = "flow",
    features: str | Path | Sequence[str] | None = None,
    text: str | Sequence[str] = (),
    neighbours: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> Generated | Result:
    """Generate cells with a ``scldm`` or ``scmmgpt`` run: sparse counts over every feature it knows.

    Parameters
    ----------
    where, n
        ``KEY=VALUE`` of conditions (the others are drawn in training shares), and how many cells.
    mode
        ``new``; ``unconditional`` (worse); ``reconstruct`` (a cell from the posterior of each of ``cells``);
        ``denoise`` (expected counts of ``cells``, of some ``features``); ``interpolate`` (``n`` cells at ``stops``
        places ``between`` two conditions); ``augment`` (``cells``, and new ones until each ``key`` has ``least``).
    steps, guidance, reference, settings, depth
        How the flow is followed; ``settings`` are further ``NAME=VALUE`` of ``tasks.draw.Sampling``. ``depth``:
        ``flow`` (generated with the cell), ``attributes`` (a table of them), or the total of every cell.
    text, neighbours
        Sentences (``scmmgpt``): ``n`` cells of each, from the text alone, or also from so many cells nearest to it.
    out
        ``.h5ad``, written in blocks: a killed run goes on.
    """
    from syncyte.tasks.generate import Request, make_cells
    from syncyte.tasks.trained import together

    asked: dict[str, Any] = {"n": n, "where": where, "mode": mode, "between": between, "stops": stops, "key": key}
    asked |= {"least": least, "neighbours": neighbours, "depth": depth, "features": features, "seed": seed}
    request = Request(**asked, text=text, reference=reference)

    def work(trained: Trained) -> Generated | Result:
        check_out(out)
        how = {"steps": steps, "guidance": guidance, "settings": settings}
        given = None if cells is None else open_data(cells, modality, genome, layer, force)
        return make_cells(trained, request, given, how, out=None if out is None else Path(out), quiet=quiet)

    return together(run, device, work)


def perturb(
    run: Any,
    cells: Any,
    *,
    key: str,
    control: str,
    target: Sequence[str] | str,
    method: str = "regression",
    reference: Any = None,
    of: str | None = None,
    steps: int = 8,
    guidance: float = 1.0,
    settings: Sequence[str] = (),
    features: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> Perturbed:
    """Predict how control cells respond to a perturbation that was measured in other cells, or to a like one.

    Parameters
    ----------
    cells, key, control, target
        Control cells, see ``read`` (those of other values of ``key`` are left out); condition, its value in control
        cells, and the values to predict: ``A+B`` puts two on together.
    method, steps, guidance, settings
        ``regression`` on measured effects, ``transport`` of codes along the flow, ``flow`` from noise (``generate``).
    reference, of
        For runs of ``clm_x``: perturbed cells with their controls, and the modality to predict, as expected values.
    features
        Table (.csv or .tsv, names first) of vectors of targets; else genes have theirs in the decoder. Targets without
        get the mean effect, and a note.
    out
        ``.h5ad`` of the control cells as they are and the predicted ones; effects go to ``.effects.csv`` beside it.
    """
    from syncyte.tasks.generate import read_sampling
    from syncyte.tasks.perturb import perturb_cells
    from syncyte.tasks.perturb_expected import perturb_expected
    from syncyte.tasks.trained import together

    del quiet
    asked: dict[str, Any] = {"key": key, "control": control, "seed": seed, "out": None if out is None else Path(out)}
    asked["targets"] = [target] if isinstance(target, str) else list(target)
    asked["features"] = None if features is None else read_features([f"{key}={features}"])[key]

    def work(trained: Trained) -> Perturbed:
        check_out(out)
        _check_fits(trained, method != "regression" or settings or guidance != 1, reference is not None or of)
        given = open_data(cells, modality, genome, layer, force)
        if trained.can("decodes"):
            known = None if reference is None else open_data(reference, modality, genome, layer, force)
            return perturb_expected(trained, given, known, of=of, **asked)
        return perturb_cells(trained, given, method=method, how=read_sampling(steps, guidance, settings), **asked)

    return together(run, device, work)


def _check_fits(trained: Trained, flow: Any, given: Any) -> None:
    """Refuse options of ``perturb`` that this kind of run would pass over."""
    if trained.can("decodes") and flow:
        raise ConfigError("This run has no flow, which --method, --guidance and --set are about. Leave them out.")
    if not trained.can("decodes") and given:
        raise ConfigError(
            "This run keeps its own perturbed cells and predicts its own modality. Leave out --reference and --of."
        )
