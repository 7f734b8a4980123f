"""Attributes that cells can be asked for: labels as codes, numbers as scaled values, features as vectors.

A table of attributes (one row a cell) becomes the tensors that a denoiser reads, and what a user asks for is checked
against what training saw. A missing value is *null*: nothing is said about that attribute. A category may have features
beside its code (a perturbed gene's embedding, say), so that one that was never trained on can still be asked for.
Leaves out: how conditions act (``nn.denoise``), how often they occur (``recipes.shares``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from syncyte.config import Config
from syncyte.errors import DataError, unknown

FEATURES = ".features"  # the name of a category's feature vector is that of the category and this
FEW_LEVELS = 20  # whole numbers with more values than that are numbers, else labels
MOST_ROWS = 5_000  # cells whose numbers are kept


class Attribute(Config):
    """One attribute.

    Attributes
    ----------
    name
        Column of ``obs``.
    levels
        Labels of a category, code 1 first; empty for a number.
    mean, sd
        Of a number over training cells.
    features
        Width of the feature vector of each level; 0 for none.
    """

    name: str
    levels: list[str] = []
    mean: float = 0.0
    sd: float = 1.0
    features: int = 0

    @property
    def categorical(self) -> bool:
        """Whether it is a label."""
        return bool(self.levels)


def is_number(column: pd.Series) -> bool:
    """Whether a column is a continuous covariate: real numbers, or whole ones with many values."""
    if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(column.dtype):
        return False
    if not pd.api.types.is_numeric_dtype(column.dtype):
        return False
    return not pd.api.types.is_integer_dtype(column.dtype) or column.nunique() > FEW_LEVELS


def as_text(column: pd.Series) -> pd.Series:
    """Labels as text, ``""`` where missing."""
    return column.astype(object).where(column.notna(), "").astype(str)


def describe_attributes(
    obs: pd.DataFrame, keys: list[str], train: NDArray[np.int64], features: Mapping[str, pd.DataFrame] | None = None
) -> list[Attribute]:
    """What training cells say of each key.

    Raises
    ------
    DataError
        If a column has one value only or none, or a feature table names no level or describes a number.
    """
    found = []
    for key in keys:
        column = obs[key].iloc[train]
        if is_number(column):
            if key in (features or {}):
                raise DataError(f"{key!r} is a number, and --features describes labels. Leave its table out.")
            spread = float(column.std())
            if not spread > 0:
                raise DataError(f"{key!r} is the same number in all training cells, so nothing can depend on it.")
            found.append(Attribute(name=key, mean=float(column.mean()), sd=spread))
            continue
        levels = sorted(set(as_text(column)) - {""})
        if not levels:
            raise DataError(f"No training cell has a value in {key!r}. Leave it out, or fill the column.")
        table = (features or {}).get(key)
        width = 0 if table is None else table.shape[1]
        if table is not None and not table.index.isin(levels).any():
            raise DataError(
                f"The table of features names {', '.join(map(str, table.index[:3]))} ..., none of which is a value of "
                f"{key!r} ({', '.join(levels[:3])} ...). Its first column should hold these values."
            )
        found.append(Attribute(name=key, levels=levels, features=width))
    return found


class ConditionCoder:
    """Tables of attributes to tensors.

    Parameters
    ----------
    attributes
        What training knew.
    features
        By category, ``(levels + 1, width)`` feature vectors in order of code; rows of NaN where a level has none.
    """

    def __init__(self, attributes: list[Attribute], features: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        self.attributes = {attribute.name: attribute for attribute in attributes}
        self.features = dict(features or {})

    @property
    def categories(self) -> dict[str, int]:
        """Number of labels of each category."""
        return {name: len(one.levels) for name, one in self.attributes.items() if one.categorical}

    @property
    def vectors(self) -> dict[str, int]:
        """Width of each number (1) and feature vector."""
        numbers = {name: 1 for name, one in self.attributes.items() if not one.categorical}
        return numbers | {name + FEATURES: one.features for name, one in self.attributes.items() if one.features}

    def arrays(self, table: pd.DataFrame, *, strict: bool = True) -> dict[str, NDArray]:
        """Codes ``(n,)`` and values ``(n, 1)`` of a table; an absent column or empty value is null.

        Parameters
        ----------
        strict
            Refuse labels that training did not see, and words for numbers; else they are null.
        """
        found: dict[str, NDArray] = {}
        for name, attribute in self.attributes.items():
            if name not in table.columns:
                null = np.zeros(len(table), np.int64) if attribute.categorical else np.full((len(table), 1), np.nan)
                found[name] = null if attribute.categorical else null.astype(np.float32)
            elif attribute.categorical:
                text = as_text(table[name])
                codes = pd.Index(attribute.levels).get_indexer(text) + 1
                strange = sorted(set(text[(codes == 0) & (text != "").to_numpy()]))
                if strange and strict:
                    raise DataError(unknown(f"value of {name!r}", strange[0], attribute.levels))
                found[name] = codes.astype(np.int64)
            else:
                values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
                words = table[name][np.isnan(values) & (as_text(table[name]) != "").to_numpy()]
                if strict and len(words):
                    raise DataError(f"{name!r} is a number in this run; found {str(words.iloc[0])!r}.")
                found[name] = ((values - attribute.mean) / attribute.sd).astype(np.float32)[:, None]
        return found

    def tensors(self, arrays: Mapping[str, NDArray | Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Conditions for the denoiser; feature vectors are looked up by code."""
        found = {name: torch.as_tensor(values).to(device) for name, values in arrays.items()}
        for name, table in self.features.items():
            if name + FEATURES not in found:
                found[name + FEATURES] = torch.from_numpy(table)[found[name].cpu()].to(device)
        return found


def feature_rows(attributes: list[Attribute], tables: Mapping[str, pd.DataFrame]) -> dict[str, NDArray[np.float32]]:
    """``(levels + 1, width)`` features of each category that has them, in order of code; NaN for null and unknown."""
    found = {}
    for attribute in attributes:
        if attribute.features:
            table = tables[attribute.name]
            rows = table.reindex(attribute.levels).to_numpy(dtype=np.float32)
            found[attribute.name] = np.vstack([np.full((1, attribute.features), np.nan, dtype=np.float32), rows])
    return found


@dataclass(frozen=True)
class Shares:
    """Which combinations of attributes occur in training cells, and how often.

    Attributes
    ----------
    table
        One row a combination; of numbers, one row a cell (of some cells).
    counts
        ``(rows,)`` cells of each.
    """

    table: pd.DataFrame
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, obs: pd.DataFrame, attributes: list[Attribute], seed: int) -> Shares:
        """Count the combinations in a table of cells."""
        columns = {
            one.name: as_text(obs[one.name]) if one.categorical else obs[one.name].astype(float) for one in attributes
        }
        table = pd.DataFrame(columns, index=obs.index)
        if not attributes:
            return cls(table.iloc[:0], np.zeros(0, dtype=np.int64))
        if not all(one.categorical for one in attributes):
            table = table.sample(min(len(table), MOST_ROWS), random_state=seed)
        grouped = table.groupby(list(table.columns), sort=True, dropna=False).size()
        rows = grouped.index.to_frame(index=False)
        return cls(rows, grouped.to_numpy(dtype=np.int64))

    def plain(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = {name: self.table[name].tolist() for name in self.table.columns}
        return {"values": values, "counts": self.counts.tolist()}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Shares:
        """Undo ``plain``."""
        return cls(pd.DataFrame(plain["values"]), np.asarray(plain["counts"], dtype=np.int64))

    def draw(self, n: int, given: Mapping[str, Any], rng: np.random.Generator) -> pd.DataFrame:
        """Attributes of ``n`` new cells: what is given, and the rest as it occurs beside that in training.

        The numbers of each combination are exact up to rounding and their order is random, so that a draw adds no noise
        of its own. Given values that never occurred together take the rest from cells with the given labels, whatever
        their numbers, or else from all cells.
        """
        if not len(self.table):
            return pd.DataFrame(index=pd.RangeIndex(n))
        fits = self._fits(given)
        if not fits.any():
            fits = self._fits({name: value for name, value in given.items() if isinstance(value, str)})
        if not fits.any():
            fits[:] = True
        share = self.counts * fits / (self.counts * fits).sum()
        exact = np.floor(share * n).astype(np.int64)
        left = share * n - exact
        more = n - int(exact.sum())
        if more:
            exact[rng.choice(len(share), more, replace=False, p=left / left.sum())] += 1
        rows = rng.permutation(np.repeat(np.arange(len(share)), exact))
        drawn = self.table.iloc[rows].reset_index(drop=True)
        return drawn.assign(**dict(given))

    def _fits(self, given: Mapping[str, Any]) -> NDArray[np.bool_]:
        fits = np.ones(len(self.table), dtype=bool)
        for name, value in given.items():
            fits &= (self.table[name] == value).to_numpy()
        return fits
