"""``syncyte generate | perturb``: a run becomes new cells, or what given cells would become."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from syncyte.cli import options


class Mode(StrEnum):
    """What is generated."""

    new = "new"
    unconditional = "unconditional"
    reconstruct = "reconstruct"
    denoise = "denoise"
    interpolate = "interpolate"
    augment = "augment"


Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="KEY=VALUE", help="Condition of the cells (repeatable).")
]
Steps = Annotated[
    int, typer.Option("--steps", min=1, metavar="N", help="Steps along a path; of Heun's scheme, two evaluations each.")
]
Guidance = Annotated[
    float, typer.Option("--guidance", min=0.0, metavar="W", help="1 as learned; 1.25 to 1.5 sharper and narrower.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A=C", help="Sampler: kind, attribute, begin, end, rescale, solver, shift."),
]
Against = Annotated[
    list[str] | None,
    typer.Option("--reference", metavar="KEY=VALUE", help="Condition that kind=referenced leads away from."),
]
Count = Annotated[int, typer.Option("--n", metavar="N", help="Number of cells (at each stop, to interpolate).")]
Given = Annotated[
    list[Path] | None, typer.Option("--cells", metavar="DATA", help="Given cells: to reconstruct, denoise or augment.")
]
Between = Annotated[
    list[str] | None, typer.Option("--between", metavar="KEY=VALUE", help="Interpolate from the first to the second.")
]
Stops = Annotated[int, typer.Option("--stops", min=2, metavar="N", help="Places from one to the other.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Label that is filled up (augment).")]
Least = Annotated[
    int | None, typer.Option("--least", min=1, metavar="N", help="Cells of each label (augment); default: the most.")
]
Depth = Annotated[str, typer.Option("--depth", metavar="D", help="Totals: flow, attributes, or a number.")]
Features = Annotated[Path | None, typer.Option("--features", metavar="FILE", help="Names, one a line, for denoise.")]


def generate(
    run: options.Run,
    out: options.Out,
    n: Count = 1000,
    where: Where = None,
    mode: Annotated[Mode, typer.Option("--mode", help="What to make.")] = Mode.new,
    cells: Given = None,
    between: Between = None,
    stops: Stops = 5,
    key: Key = None,
    least: Least = None,
    steps: Steps = 8,
    guidance: Guidance = 1.0,
    reference: Against = None,
    settings: Settings = None,
    depth: Depth = "flow",
    features: Features = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="TEXT", help="Which cells, in words, for scmmgpt runs (repeatable; --n each)."),
    ] = None,
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=0, metavar="K", help="Also start from K training cells near the text.")
    ] = 0,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Generate cells with a scldm or scmmgpt run: raw counts, as sparse integers.

    Conditions that are not given are drawn in training shares. A killed command goes on when it is given again.

    Examples
    --------
    syncyte generate run --n 5000 --out cells.h5ad
    syncyte generate run --n 500 --where cell_type="B cell" --where condition=stimulated --guidance 1.5 --out b.h5ad
    syncyte generate run --text "CD8 T cells stimulated with interferon beta" --n 1000 --out cd8.h5ad
    syncyte generate run --mode denoise --cells query.h5ad --features genes.txt --out smooth.h5ad
    syncyte generate run --mode interpolate --between cell_type="B cell" --between cell_type=NK --n 100 --out way.h5ad
    syncyte generate run --mode augment --cells train.h5ad --key cell_type --least 200 --out more.h5ad
    """
    _tell(
        options.call("generate", options.plain(locals(), "where", "between", "reference", "settings", "text")),
        out,
        quiet,
    )


class Method(StrEnum):
    """How a response is predicted."""

    regression = "regression"
    transport = "transport"
    flow = "flow"


def perturb(
    run: options.Run,
    cells: Annotated[
        list[Path], typer.Argument(metavar="CONTROLS", help="Files with the control cells.", show_default=False)
    ],
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="Condition of the run.", show_default=False)],
    control: Annotated[
        str, typer.Option("--control", metavar="VALUE", help="Its value in control cells.", show_default=False)
    ],
    target: Annotated[
        list[str],
        typer.Option("--target", metavar="VALUE", help="What to predict (repeatable); A+B puts on both."),
    ],
    out: options.Out,
    method: Annotated[Method, typer.Option("--method", help="How it is predicted.")] = Method.regression,
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", metavar="DATA", help="For clm_x runs: perturbed cells and their controls."),
    ] = None,
    of: Annotated[str | None, typer.Option("--of", metavar="NAME", help="For clm_x runs: modality to predict.")] = None,
    steps: Steps = 8,
    guidance: Guidance = 1.0,
    settings: Settings = None,
    features: Annotated[
        Path | None, typer.Option("--features", metavar="TABLE", help="Feature vectors of targets, names first.")
    ] = None,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Predict how control cells respond: cells, effects of every gene with sign and error, hits.

    Examples
    --------
    syncyte perturb run controls.h5ad --key condition --control ctrl --target stim --out predicted.h5ad
    syncyte perturb run controls.h5ad --key perturbation --control NT --target STAT1 --target STAT1+IRF1 --out p.h5ad
    syncyte perturb run controls.h5ad --key drug --control none --target X7 --features drugs.csv --out p.h5ad
    syncyte perturb clm_x_run controls.h5mu --reference train.h5mu --key drug --control none --target X1 --out p.h5ad
    """
    made = options.call("perturb", options.plain(locals() | {"reference": reference or None}, "settings", "target"))
    facts = getattr(made, "facts", {})
    options.note(facts.get("notes", ()), quiet)
    options.say(f"Wrote {out} and {out.with_suffix('.effects.csv')}", quiet)


def _tell(made: Any, out: Path, quiet: bool) -> None:
    """Say what was written, and what should be known of it."""
    facts = getattr(made, "facts", {})
    options.note((facts or made.provenance).get("notes", ()), quiet)
    count = f"{facts['cells']:,} cells" if facts else "expectations"
    more = f", {facts['evaluations']} evaluations a cell" if "evaluations" in facts else ""
    options.say(f"Wrote {out} ({count}{more})", quiet)
