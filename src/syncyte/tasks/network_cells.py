"""Cells through which the change of one gene's token travels: what it does to that gene and to all others.

For a gene with another token, a cell is changed in two steps. *cis*: the gene's own value, predicted from the other
genes with the old and with the new token, moves by the difference. *trans*: the cell is read again with the new token
and the moved value, and every other gene is predicted again; ``kept`` leaves the value where it was, so that the token
alone acts. Means are taken over the cells of a *unit* (a donor in a group) that express the gene; nothing else is read.

Without attention the sum that a cell is read as changes by one term, so that REF is computed once for all variants and
a variant costs products of a vector and a table; with attention cells are read again. Both give the same numbers where
both apply (a test). Leaves out: where tokens come from (``variant_tokens``), tests and tables (``variants``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from syncyte.baselines.amounts import BINS, PER_CELL, Encoding, amounts, scores
from syncyte.baselines.prediction import depth_of, log_values
from syncyte.data.cells import Cells
from syncyte.models.genes import GeneModel

POOL = 1_000  # cells of a unit that are drawn at most
EACH = 64  # cells of a unit that a gene is followed in at most
AGAIN = 8  # the same where every cell has to be read again (attention)
SHIFTED = 8  # of these, cells of a unit that contextual embeddings are compared in (every gene of every cell)
FEWEST = 3  # cells of a unit that must express a gene
CLOSE = 1e-7  # of a key: a value read back from float32 is its own equal


@dataclass(frozen=True)
class Response:
    """What tokens of one gene do, by variant ``v``, unit ``u`` and gene ``g``.

    Attributes
    ----------
    own
        ``(v, u)`` mean change of the gene's own predicted value, log1p of counts per 10,000.
    change
        ``(v, u, g)`` mean change of the predicted value of the others; 0 for the gene itself.
    shift
        ``(v, u, g)`` mean of 1 - cosine between contextual embeddings before and after; 0 for the gene itself.
    cells
        ``(u,)`` cells followed; the values of units with fewer than ``FEWEST`` are NaN.
    """

    own: NDArray[np.float32]
    change: NDArray[np.float32]
    shift: NDArray[np.float32]
    cells: NDArray[np.int64]


class NetworkCells:
    """Cells of all units, read once.

    Parameters
    ----------
    model
        A gene network.
    cells
        In the model's gene space.
    groups, donors
        ``(n,)`` labels; donors all alike where none are known.
    medians
        ``(g,)``, of the run.
    each
        Cells of a unit a gene is followed in at most.
    """

    def __init__(
        self,
        model: GeneModel,
        cells: Cells,
        groups: pd.Series,
        donors: pd.Series,
        medians: NDArray[np.float64],
        *,
        seed: int = 0,
        each: int | None = None,
    ) -> None:
        self.model, self.medians = model.eval(), medians
        self.each = each or (EACH if model.backbone is None else AGAIN)
        rows, self.unit, self.units = _draw_units(groups, donors, seed)
        spec = model.spec
        self.encoding: Encoding = spec.encoding
        counts = cells.counts(spec.modality, rows)
        self.total = depth_of(counts)
        self.amount = amounts(counts, self.encoding, medians)
        self.presence, self.values = self.amount.tocsc(), log_values(counts, spec.per_cell).tocsc()
        self.places = _Places(counts, self.encoding, medians)
        with torch.no_grad():
            self.tokens = model.tokens()
            self.coordinates, self.level = model.split(self.tokens)
            self.head = model.head(self.tokens)
            offset = (model.mean / model.sd) @ self.coordinates
            scaled = sp.csr_matrix(self.amount @ sp.diags((1 / model.sd).cpu().numpy().astype(np.float32)))
            read = torch.from_numpy((scaled @ self.coordinates.cpu().numpy()).astype(np.float32))
            self.read = read.to(offset) - offset
        digest = hashlib.blake2b(digest_size=16)
        counted = (counts.data, counts.indices, counts.indptr)
        learned = [tensor.cpu().numpy() for tensor in (self.tokens, *model.state_dict().values())]
        for array in (rows, self.unit, *counted, *learned):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = f"{digest.hexdigest()} {self.each} {self.units.to_csv()}"

    def expressing(self, gene: int) -> NDArray[np.int64]:
        """Cells that a gene is followed in: of each unit, the first ``each`` that express it, in a random order."""
        found = np.sort(self.presence.indices[self.presence.indptr[gene] : self.presence.indptr[gene + 1]])
        unit = self.unit[found]
        order = np.argsort(unit, kind="stable")
        ranked = np.empty(len(found), dtype=np.int64)
        starts = np.searchsorted(unit[order], np.arange(len(self.units)))
        ranked[order] = np.arange(len(found)) - starts[unit[order]]
        return found[ranked < self.each]

    @torch.no_grad()
    def respond(
        self,
        gene: int,
        tokens: Tensor,
        reference: Tensor | None = None,
        *,
        kept: bool = False,
        carried: bool = False,
        shifts: bool = True,
        again: bool = False,
    ) -> Response:
        """Response to each of ``(v, w)`` tokens of a gene.

        Parameters
        ----------
        reference
            ``(w,)`` token that the cells have now; the run's own by default.
        kept
            Leave the gene's value where it is: the token alone acts.
        carried
            Read the cell with the run's own token: the gene's moved value alone acts.
        shifts
            Compare contextual embeddings too, which is most of the work; NaN without.
        again
            Read the cells again even where that is not needed.
        """
        before = self.tokens[gene] if reference is None else reference
        chosen = self.expressing(gene)
        at = torch.from_numpy(chosen)
        own, amount, moved = self._own(gene, at, tokens, before, kept)
        if carried:
            before = self.tokens[gene]
            tokens = before.expand_as(tokens)
        if self.model.backbone is None and not again:
            change, shift = self._sum_again(gene, at, tokens, before, amount, moved, shifts)
        else:
            change, shift = self._read_again(gene, at, tokens, before, amount, moved)
        return self._means(gene, chosen, own, change, shift)

    @torch.no_grad()
    def without(self, gene: int, how: str) -> Response:
        """Response to removing the gene: ``delete`` (as if it had no counts) or ``mask`` (as if it were not known)."""
        at = torch.from_numpy(self.expressing(gene))
        token = self.tokens[gene]
        amount = self._column(gene, at)
        scaled = (0.0 - self.model.mean[gene]) / self.model.sd[gene] if how == "delete" else amount.new_zeros(())
        moved = scaled.expand(1, len(at))
        if self.model.backbone is None:
            change, shift = self._sum_again(gene, at, token[None], token, amount, moved)
        else:
            change, shift = self._read_again(gene, at, token[None], token, amount, moved)
        return self._means(gene, at.numpy(), torch.zeros(1, len(at)), change, shift)

    def _column(self, gene: int, at: Tensor) -> Tensor:
        """Standardised amount of a gene in some cells."""
        raw = torch.from_numpy(_column(self.presence, gene)[at.numpy()]).to(self.model.mean)
        return (raw - self.model.mean[gene]) / self.model.sd[gene]

    def _own(self, gene: int, at: Tensor, tokens: Tensor, before: Tensor, kept: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Change of the gene's own value ``(v, c)``, its standardised amount ``(c,)`` and the moved one ``(v, c)``.

        Cells were measured with the run's own token: under another, a value is the measured one plus the difference of
        the two predictions. So the way from one token to another is the mirror image of the way back.
        """
        model = self.model
        amount = self._column(gene, at)
        others = self.read[at] - amount[:, None] * self.coordinates[gene]
        every = torch.cat([self.tokens[gene][None], before[None], tokens])
        place, level = model.split(every)
        head = place if model.output is None else model.output[gene].expand_as(place)
        value = level[:, None] + model.spread[gene] * ((head * model.mix) @ others.T)
        moved = torch.where((every == every[0]).all(dim=1)[:, None], torch.zeros_like(value), value - value[0])[1:]
        same = (tokens == before).all(dim=1)[:, None]
        moved = torch.cat([moved[:1], torch.where(same, moved[:1].expand_as(moved[1:]), moved[1:])])
        own = moved[1:] - moved[0]
        if kept:
            return own, amount, amount.expand_as(own)
        now = _column(self.values, gene)[at.numpy()]
        step = self.places.step(gene, at.numpy(), now, moved.cpu().numpy(), self.total)
        amounts = amount + torch.from_numpy(step).to(own) / model.sd[gene]
        return own, amounts[0], amounts[1:]

    def _sum_again(
        self,
        gene: int,
        at: Tensor,
        tokens: Tensor,
        before: Tensor,
        amount: Tensor,
        moved: Tensor,
        compared: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Change and shift of all genes in every unit's mean: one term of each cell's sum is another."""
        model, units = self.model, self._weights(at)
        stood, places = model.split(before)[0], model.split(tokens)[0]
        old = amount[:, None] * stood
        steps = [scaled[:, None] * place - old for place, scaled in zip(places, moved)]
        means = torch.stack([units @ step for step in steps])
        change = model.spread * (means @ (self.head * model.mix).T)
        if not compared:
            return change, torch.full_like(change, torch.nan)
        kept = bool((moved == amount).all())
        return change, self._turned(gene, at, before, amount, steps, places - stood if kept else None)

    def _turned(
        self, gene: int, at: Tensor, before: Tensor, amount: Tensor, steps: list[Tensor], lines: Tensor | None
    ) -> Tensor:
        """1 - cosine of every gene's contextual embedding when the sums of the cells change by steps.

        Where values are kept, a step is the amount of each cell times one line ``(v, k)``, which saves two products.
        """
        model, few = self.model, self._first(at)
        now = self._standing(gene, at[few], before, amount[few])
        square = self.head.square() * model.mix.square()
        others = torch.from_numpy(self.amount[at[few].numpy()].toarray()).to(now)
        others = (others - model.mean) / model.sd
        length = self._length(now, others, square)
        part, shifts = self._weights(at[few]), []
        own, many = square * self.coordinates, amount[few, None]
        for number, whole in enumerate(steps):
            step = whole[few]
            if lines is None:
                cross = (now * step) @ square.T - others * (step @ own.T)
                after = length + 2 * cross + step.square() @ square.T
            else:
                line = lines[number]
                cross = many * ((now * line) @ square.T - others * (own @ line))
                after = length + 2 * cross + many.square() * (square @ line.square())
            cosine = (length + cross) / (length * after).clamp_min(1e-24).sqrt()
            shift = torch.where(after > 1e-12, 1 - cosine, torch.zeros_like(cosine)).clamp_min(0)
            shifts.append(part @ (shift if bool(step.any()) else torch.zeros_like(shift)))
        return torch.stack(shifts)

    def _first(self, at: Tensor) -> Tensor:
        """Positions of the first ``SHIFTED`` cells of each unit."""
        unit = pd.Series(self.unit[at.numpy()])
        return torch.from_numpy(np.flatnonzero(unit.groupby(unit).cumcount() < SHIFTED))

    def _standing(self, gene: int, at: Tensor, before: Tensor, amount: Tensor) -> Tensor:
        """What the cells are read as with ``before`` for the gene's token and ``amount`` for its amount."""
        own = self._column(gene, at)[:, None] * self.coordinates[gene]
        return self.read[at] + amount[:, None] * self.model.split(before[None])[0] - own

    def _length(self, now: Tensor, others: Tensor, square: Tensor) -> Tensor:
        """Squared length of every gene's contextual embedding, its own amount taken out of the sum."""
        own = self.coordinates
        return (
            now.square() @ square.T
            - 2 * others * (now @ (square * own).T)
            + others.square() * (square * own.square()).sum(dim=1)
        ).clamp_min(0)

    def _read_again(
        self, gene: int, at: Tensor, tokens: Tensor, before: Tensor, amount: Tensor, moved: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same by reading the cells again with another token and amount."""
        model, genes = self.model, torch.arange(self.model.spec.features, device=tokens.device)
        raw = torch.from_numpy(self.amount[at.numpy()].toarray()).to(tokens)
        few = self._first(at)
        units, part = self._weights(at), self._weights(at[few])

        def seen(token: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor]:
            table = self.tokens.clone()
            table[gene] = token
            cells = raw.clone()
            cells[:, gene] = scaled * model.sd[gene] + model.mean[gene]
            return model.context(model.read(cells, table), self.tokens, genes, self.head)

        first, context = seen(before, amount)
        changes, shifts = [], []
        for token, scaled in zip(tokens, moved):
            found, other = seen(token, scaled)
            same = bool((token == before).all()) and bool((scaled == amount).all())
            cosine = torch.nn.functional.cosine_similarity(context[few], other[few], dim=2)
            shifts.append(part @ (torch.zeros_like(cosine) if same else (1 - cosine).clamp_min(0)))
            changes.append(units @ (torch.zeros_like(found) if same else (found - first) * model.spread))
        return torch.stack(changes), torch.stack(shifts)

    def _weights(self, at: Tensor) -> Tensor:
        """``(u, c)`` weights that take the mean over the cells of each unit."""
        unit = torch.from_numpy(self.unit[at.numpy()])
        hot = torch.nn.functional.one_hot(unit, len(self.units)).T.to(self.read)
        return hot / hot.sum(dim=1, keepdim=True).clamp_min(1)

    def _means(self, gene: int, chosen: NDArray[np.int64], own: Tensor, change: Tensor, shift: Tensor) -> Response:
        count = np.bincount(self.unit[chosen], minlength=len(self.units))
        few = count < FEWEST
        parts = (own @ self._weights(torch.from_numpy(chosen)).T, change, shift)
        moved, changed, turned = (part.cpu().numpy().astype(np.float32) for part in parts)
        changed[:, :, gene] = turned[:, :, gene] = 0
        moved[:, few] = changed[:, few] = turned[:, few] = np.nan
        return Response(moved, changed, turned, count)


def _column(matrix: sp.csc_matrix, column: int) -> NDArray[np.float32]:
    found = np.zeros(matrix.shape[0], dtype=np.float32)
    span = slice(matrix.indptr[column], matrix.indptr[column + 1])
    found[matrix.indices[span]] = matrix.data[span]
    return found


class _Places:
    """Amount that a gene has in a cell at any value, the cell's other genes as they are.

    Between the values of two of them its place is interpolated: a small change is a small step, not a whole group of
    equals or none.
    """

    def __init__(self, counts: sp.csr_matrix, encoding: Encoding, medians: NDArray[np.float64]) -> None:
        self.encoding, self.medians = encoding, medians
        found = counts.astype(np.float64)
        found.eliminate_zeros()
        score = np.log(scores(found, encoding, medians)) if encoding != "log" else np.zeros(found.nnz)
        self.low = float(score.min(initial=0.0)) - 1
        self.span = float(score.max(initial=0.0)) + 1 - self.low
        self.sizes = np.diff(found.indptr)
        keys = np.sort(self._key(np.repeat(np.arange(found.shape[0]), self.sizes), score))
        first = np.flatnonzero(np.append(True, np.diff(keys) > CLOSE)) if len(keys) else np.empty(0, np.int64)
        last = np.append(first[1:], len(keys))
        self.keys = keys[first]  # one a group of equals
        start = (np.cumsum(self.sizes) - self.sizes)[self.keys.astype(np.int64)]
        self.middle = (first + last) / 2 - start  # genes of the cell below it, half of the equals among them

    def _key(self, row: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Number that sorts by cell and, within, by score."""
        return row + 0.999 * np.clip((score - self.low) / self.span, 0, 0.9999)

    def step(
        self, gene: int, rows: NDArray[np.int64], now: NDArray, own: NDArray, total: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Change of the raw amount ``(v, c)`` when the value ``now (c,)`` of a gene changes by ``own (v, c)``."""
        if self.encoding == "log":
            return np.maximum(now + own, 0) - now
        scale = np.log(self.medians[gene]) if self.encoding == "rank" else 0.0
        with np.errstate(divide="ignore"):
            mine = np.log(np.expm1(now) * total[rows] / PER_CELL) - scale
            score = np.log(np.expm1(np.maximum(now + own, 0)) * total[rows] / PER_CELL) - scale
        group = np.searchsorted(self.keys, self._key(rows, mine) - CLOSE)  # the gene's own among the equals
        before = self._place(rows, self.keys[group], group)
        after = np.where(np.isfinite(score), self._place(rows, self._key(rows, score), group), 0.0)
        return np.where(own == 0, 0.0, after - before).astype(np.float32)

    def _place(self, rows: NDArray[np.int64], key: NDArray, own: NDArray[np.int64]) -> NDArray[np.float64]:
        """Place over the number of genes in the cell; ``own`` is the group that holds the gene itself."""
        high = np.searchsorted(self.keys, key)
        low = high - 1
        inside_low = (low >= 0) & (self.keys[np.maximum(low, 0)].astype(np.int64) == rows)
        high_at = np.minimum(high, len(self.keys) - 1)
        inside_high = (high < len(self.keys)) & (self.keys[high_at].astype(np.int64) == rows)
        low, high = np.where(inside_low, low, high), np.where(inside_high, high, low)
        width = self.keys[high] - self.keys[low]
        part = np.where(width > 0, np.clip((key - self.keys[low]) / np.where(width > 0, width, 1), 0, 1), 0.0)

        def below(group: NDArray[np.int64]) -> NDArray[np.float64]:  # the gene itself is not among the others
            return self.middle[group] - (group > own) - 0.5 * (group == own)

        place = (1 - part) * below(low) + part * below(high)
        many = self.sizes[rows]
        return (0.5 + place / many * BINS) / BINS if self.encoding == "bins" else (place + 1) / many


def _draw_units(
    groups: pd.Series, donors: pd.Series, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], pd.DataFrame]:
    """Rows of the cells drawn, in random order; the unit of each; and the table of units."""
    known = groups.notna().to_numpy() & donors.notna().to_numpy()
    frame = pd.DataFrame({"group": groups.astype(str).to_numpy(), "donor": donors.astype(str).to_numpy()})[known]
    code = frame.groupby(["group", "donor"], sort=True).ngroup().to_numpy()
    units = frame.drop_duplicates().sort_values(["group", "donor"], ignore_index=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    rank = pd.Series(code[order]).groupby(code[order]).cumcount().to_numpy()
    drawn = order[rank < POOL]
    return np.flatnonzero(known)[drawn], code[drawn], units
