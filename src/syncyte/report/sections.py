"""What a report says: plain tables and arrays become sections with figures, verdicts and words.

Each builder takes what an evaluation has and leaves out what it lacks. Leaves out: the order of the page
(``report.build``), drawing (``report.plots``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import DataError
from syncyte.report import plots
from syncyte.report.base import Section, Verdict
from syncyte.report.measures import measure
from syncyte.report.tables import judge, judged_columns, number, overview, sentence_case

Arrays = Mapping[str, NDArray[Any]]
Tables = Mapping[str, pd.DataFrame]


def comparison(
    title: str, table: pd.DataFrame, model: str, text: str = "", more: Tables | None = None, bars: int = 2
) -> Section:
    """Methods against metrics: verdict on the first metric, an overview of all, bars of the first ones.

    Parameters
    ----------
    title
        Heading and caption of the table.
    table
        Rows are methods, columns metrics, the most important first.
    model
        Row of the model.
    text
        Paragraphs above the table.
    more
        Further tables, printed as they are.
    bars
        How many metrics are drawn.
    """
    judged = judged_columns(table)
    caption = f"{title}: methods and metrics"
    figures = {
        ": ".join(filter(None, (sentence_case(measure(name).label), measure(name).meaning))): plots.baseline_bars(
            table, name, model
        )
        for name in judged[:bars]
        if len(table) > 1 and table[name].notna().any()
    }
    verdicts = [judge(table, name, model) for name in judged[:bars]]
    return Section(
        title,
        text=[text, overview(table, model)],
        tables={caption: table, **(more or {})},
        compared=[caption],
        model=model,
        figures=figures,
        verdicts=verdicts,
    )


def umap_section(title: str, arrays: Arrays, text: str = "") -> Section:
    """UMAP by label and by technical batch, whichever there is."""
    spots = np.asarray(arrays["coordinates"])
    wanted = {"label": "by label", "batch": "by technical batch", "source": "real and generated"}
    figures = {
        f"{len(spots):,} cells {words}": plots.umap(spots, arrays[key], label=key == "label")
        for key, words in wanted.items()
        if key in arrays
    }
    return Section(title, text=text, figures=figures)


def annotation(
    table: pd.DataFrame | None, arrays: Arrays, model: str, text: str = "", more: Tables | None = None
) -> Section:
    """Labels: methods, classes, confusion, calibration, and what abstaining buys."""
    base = comparison("Annotation", table, model, text) if table is not None else Section("Annotation", text=text)
    tables, figures, data, metrics = {**base.tables, **(more or {})}, {}, {}, {}
    if "truth" in arrays and "predicted" in arrays:
        truth, predicted = arrays["truth"], arrays["predicted"]
        tables["Annotation: classes"] = per_class(truth, predicted)
        figures["Confusion: rows are the true classes and sum to one; cells in brackets"] = plots.confusion_matrix(
            truth, predicted
        )
        data["confusion"] = plots.confusion(truth, predicted).rename_axis("truth").reset_index()
        if "confidence" in arrays:
            bins = plots.reliability_bins(truth, predicted, arrays["confidence"])
            error = float(
                ((bins["predicted"] - bins["observed"]).abs() * bins["entries"]).sum() / bins["entries"].sum()
            )
            metrics["calibration error"] = error
            figures[f"Calibration: on the diagonal, confidence is the share correct (error {error:.3f})"] = (
                plots.reliability(bins)
            )
            figures["Abstention: what leaving out the least confident cells buys"] = plots.abstention(
                truth, predicted, arrays["confidence"]
            )
            data["calibration"] = bins
    return Section(
        base.title,
        text=base.text,
        tables=tables,
        figures={**base.figures, **figures},
        metrics=metrics,
        model=model,
        compared=base.compared,
        verdicts=base.verdicts,
        data=data,
    )


def translation(
    key: str,
    table: pd.DataFrame | None,
    arrays: Arrays,
    model: str,
    words: Mapping[str, str] | None = None,
    more: Tables | None = None,
) -> Section:
    """One direction: methods against metrics, agreement feature by feature, calibration of probabilities.

    ``arrays`` may hold ``per_feature``, ``per_feature_baseline``, ``per_feature_within`` and ``names``; ``words`` the
    note (``note``), the name of the baseline (``baseline``) and of the number (``measure``). A table of ``more`` whose
    name ends in ``reliability`` (predicted, observed, entries) is drawn.
    """
    words = words or {}
    title = f"{key[0].upper()}{key[1:]}"
    what, other = words.get("measure", "agreement over cells"), words.get("baseline", "baseline")
    base = comparison(title, table, model, words.get("note", "")) if table is not None else Section(title)
    figures, known = {}, {name: arrays[name] for name in ("per_feature", "per_feature_baseline") if name in arrays}
    labels = {"per_feature": model, "per_feature_baseline": other, "per_feature_within": f"{model}, within cell types"}
    if "per_feature" in arrays:
        series = {labels[name]: arrays[name] for name in labels if name in arrays}
        figures["Agreement: one value a feature; dashed lines are medians"] = plots.agreement_histogram(
            series, "", what
        )
    if len(known) == 2:
        figures["Feature by feature: above the diagonal the model is better"] = plots.agreement_scatter(
            arrays["per_feature"], arrays["per_feature_baseline"], "", (model, other)
        )
    tables, data = dict(base.tables), {name: arrays[name] for name in ("names", *labels) if name in arrays}
    for name, extra in (more or {}).items():
        if name.endswith("reliability") and {"predicted", "observed", "entries"} <= set(extra.columns):
            figures["Calibration: predicted against observed share"] = plots.reliability(
                extra, "", "predicted", "observed"
            )
            data["reliability"] = extra
        else:
            tables[name] = extra
    if "names" in arrays and "per_feature" in arrays:
        tables[f"{title}: best and worst features"] = extremes(arrays["names"], arrays["per_feature"], what)
    return Section(
        title,
        text=base.text or words.get("note", ""),
        tables=tables,
        figures={**base.figures, **figures},
        model=model,
        compared=base.compared,
        verdicts=base.verdicts,
        data=data,
    )


def training(metrics: Path | pd.DataFrame, text: str = "") -> Section:
    """Curves of a run, from ``metrics.csv`` or its table (step, epoch, stage, split, name, value)."""
    frame = metrics if isinstance(metrics, pd.DataFrame) else _read_curves(Path(metrics))
    if frame.empty:
        return Section("Training", text=[text, "No step was recorded."])
    stages = frame.groupby("stage", sort=False).agg(
        first=("step", "min"), last=("step", "max"), epochs=("epoch", "max")
    )
    held = frame[(frame["split"] != "train") & (frame["name"] == "total")]
    if not held.empty:
        rounds = held.groupby("stage", sort=False)["value"]
        stages["best held-out loss"] = rounds.min()
        stages["reached at step"] = held.loc[rounds.idxmin()].set_index("stage")["step"].astype("Int64")
    facts: dict[str, Any] = {"steps": int(frame["step"].max())}
    for column, words in (("cpu_seconds", "CPU seconds"), ("wall_seconds", "wall seconds")):
        if column in frame:
            facts[words] = f"{frame[column].max():,.0f}"
    figure = {"Losses by step: a vertical line is where a stage begins": plots.training_curves(frame)}
    return Section(
        "Training", text=text, tables={"Stages": stages}, figures=figure, metrics=facts, data={"curves": frame}
    )


def coverage(report: Mapping[str, Any], text: str = "") -> Section:
    """Say what of the data was used: ``Cells.report`` as sentences, bars of found features, notes."""
    features = report.get("features", {})
    said = [item["sentence"] if isinstance(item, Mapping) else str(item) for item in features.values()]
    for name in features:
        if isinstance(report.get(name), Mapping) and report[name].get("counts"):
            said.append(f"Counts of {name}: {report[name]['counts']}")
    rows = {
        name: {key: value for key, value in report[name].items() if isinstance(value, int | float | str)}
        for name in features
        if isinstance(report.get(name), Mapping)
    }
    shares = {key.removeprefix("align_"): pair for key, item in report.items() if (pair := _share(item)) is not None}
    figures = {"Features of the model found in these cells": plots.coverage_bars(shares)} if shares else {}
    tables = (
        {"Modalities": pd.DataFrame.from_dict(rows, orient="index").drop(columns=["counts"], errors="ignore")}
        if rows
        else {}
    )
    if report.get("sources"):
        sources = pd.DataFrame(report["sources"]).astype(object)
        tables["Sources"] = sources.set_index("path") if "path" in sources else sources
    facts = {
        words: report[key]
        for key, words in (("cells", "cells"), ("paired", "cells with every modality"))
        if key in report
    }
    notes = [str(note) for note in report.get("notes", [])]
    return Section(
        "Coverage",
        text=[text, *said, *notes],
        tables=tables,
        figures=figures,
        metrics=facts,
        data=dict(report),
    )


def provenance(facts: Mapping[str, Any], text: str = "") -> Section:
    """Where the numbers come from: nested facts as one table, all of it in the JSON twin."""
    flat = _flatten({key: value for key, value in facts.items() if key != "coverage"})
    table = pd.DataFrame({"value": [number(value) for value in flat.values()]}, index=pd.Index(list(flat), name="what"))
    return Section("Provenance", text=text, tables={"Run, data, versions": table}, data=dict(facts))


def per_class(truth: NDArray[Any], predicted: NDArray[Any]) -> pd.DataFrame:
    """Precision, recall, F1 and cells of every true class, and what it is mostly taken for."""
    from sklearn.metrics import precision_recall_fscore_support

    counts = plots.confusion(truth, predicted)
    names = list(counts.index)
    texts = [
        np.asarray([str(item) or "(none)" for item in np.asarray(side, dtype=object)]) for side in (truth, predicted)
    ]
    scores = precision_recall_fscore_support(*texts, labels=names, zero_division=0)
    wrong = counts.copy()
    for name in names:
        wrong.loc[name, name] = 0
    taken = [
        f"{wrong.loc[name].idxmax()} ({wrong.loc[name].max():,})" if wrong.loc[name].max() else "" for name in names
    ]
    columns = dict(zip(("precision", "recall", "F1", "cells"), scores, strict=True))
    return pd.DataFrame(columns, index=pd.Index(names, name="class")).assign(**{"mostly mistaken for": taken})


def extremes(names: NDArray[Any], values: NDArray[Any], what: str, count: int = 5) -> pd.DataFrame:
    """Features with the highest and the lowest values."""
    column = pd.Series(np.asarray(values, dtype=float), index=pd.Index(names, name="feature")).dropna().sort_values()
    best, worst = column.iloc[::-1][:count], column.iloc[: min(count, max(len(column) - count, 0))][::-1]
    which = [f"{word} {len(part)}" for word, part in (("highest", best), ("lowest", worst)) for _ in range(len(part))]
    return pd.concat([best, worst]).to_frame(what).assign(which=which)


def summary(sections: Mapping[str, Section], text: str = "") -> Section:
    """First verdict of every section, each named, and how many other metrics went the other way."""
    verdicts = []
    for name, section in sections.items():
        if section.verdicts:
            whole = overview(section.tables[section.compared[0]], section.model) if section.compared else ""
            rest = f" {whole}" if "in all" not in whole and whole else ""
            verdicts.append(Verdict(f"{name}. {section.verdicts[0].text}{rest}", section.verdicts[0].outcome))
    return Section("Summary", text=text, verdicts=verdicts)


def _read_curves(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the training curves {path} ({error}). Give the metrics.csv of a run.") from error
    missing = {"step", "epoch", "stage", "split", "name", "value"} - set(frame.columns)
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}. Give the metrics.csv of a run.")
    return frame


def _share(item: Any) -> tuple[int, int] | None:
    """Found and asked-for features, where an entry of the coverage report holds them."""
    if isinstance(item, Mapping) and isinstance(item.get("found"), int) and isinstance(item.get("features"), int):
        return item["found"], item["features"]
    return None


def _flatten(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            flat[name] = ", ".join(str(item) for item in value)
        else:
            flat[name] = value
    return flat
