"""What each number of a table means, in words, and which way is better.

Leaves out the computation (``metrics``). Names that are not listed are judged by their words where these are clear, and
are printed without a judgement where not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """Label for a column, one sentence, and whether higher is better (None: no judgement)."""

    label: str
    meaning: str = ""
    higher_is_better: bool | None = None


_UP = {
    "r": ("per-feature r", "Pearson's r of prediction and measurement over cells, mean of features"),
    "r_all": ("per-feature r, all", "the same over every feature that varies"),
    "r_in_type": ("r within type", "the same within cell types: what is known beyond the type"),
    "r_given_depth": ("r given depth", "the same with the depth of the cells regressed out"),
    "r_in_type_depth": ("r within type, given depth", "the same within cell types and with depth regressed out"),
    "skill": ("skill", "1 - loss / loss of the training mean; 0 is the mean profile, 1 is perfect"),
    "cell_r": ("per-cell r", "Pearson's r over features, mean of cells; a constant profile already scores high"),
    "auroc": ("AUROC", "chance that an open cell is ranked above a closed one, mean of regions; depth alone raises it"),
    "auroc_in_type": ("AUROC within type", "the same over pairs of cells of one type"),
    "auroc_like_depth": ("AUROC like depth", "the same over pairs of cells of like depth"),
    "auroc_in_type_depth": ("AUROC within type and depth", "the same over pairs of one type and like depth"),
    "auroc_profile": ("profile AUROC", "the same under the true depth of every cell: only the profile counts"),
    "auprc": ("AUPRC", "average precision, mean of regions; a random order reaches the prevalence"),
    "d2": ("D2", "skill in Bernoulli deviance against the training mean"),
    "d2_all": ("D2, all", "the same over all features"),
    "brier_skill": ("Brier skill", "skill in squared error of probabilities against the training mean"),
    "brier_skill_all": ("Brier skill, all", "the same over all features"),
    "accuracy": ("accuracy", "share of cells with the right label"),
    "balanced_accuracy": ("balanced accuracy", "recall, mean of classes"),
    "macro_f1": ("macro F1", "F1, mean of classes: rare classes count as much as common ones"),
    "nmi": ("NMI", "agreement of clusters and labels"),
    "ari": ("ARI", "agreement of clusters and labels, corrected for chance"),
    "nmi_fixed": ("NMI, fixed", "NMI of the clusters at resolution 1, which no label chose"),
    "ari_fixed": ("ARI, fixed", "ARI of the clusters at resolution 1, which no label chose"),
    "nmi_equal": ("NMI at equal depth", "NMI of cells thinned to one depth"),
    "nmi_full": ("NMI at full depth", "NMI of the same cells as they are"),
    "ari_equal": ("ARI at equal depth", "ARI of cells thinned to one depth"),
    "ari_full": ("ARI at full depth", "ARI of the same cells as they are"),
    "asw_label": ("ASW label", "silhouette of labels, scaled to 0..1"),
    "asw_batch": ("ASW batch", "mixing of technical batches within labels by silhouette; 1 is mixed"),
    "ilisi": ("iLISI", "mixing of technical batches among neighbours; 1 is mixed"),
    "clisi": ("cLISI", "purity of labels among neighbours; 1 is pure"),
    "graph_connectivity": ("graph connectivity", "share of each label in one piece of the neighbour graph"),
    "isolated_labels": ("isolated labels", "how well labels of few technical batches stand apart"),
    "recall": ("recall", "share of real cells that lie within the generated cloud: what is not left out"),
    "pearson_delta": ("delta r", "Pearson's r over genes of predicted and measured change against control cells"),
    "pearson_delta_reference": ("delta r (reference)", "the same against the mean response: what is particular"),
    "spearman_de": ("Spearman, changed genes", "rank correlation of changes over significantly changed genes"),
    "direction_match": ("direction", "share of changed genes with the right sign"),
    "pds_centred": ("discrimination", "rank of the own measured response among all, about their means; 1 is first"),
    "pds_l1": ("discrimination (L1)", "the same by distance; depends on the scale of effects"),
    "precision": ("precision", "share of generated cells that lie within the real cloud; a narrow cloud scores high"),
    "harmonic": ("harmonic mean", "of precision and recall"),
    "slot_accuracy": ("slot accuracy", "share of the values of the truth that a sentence has right"),
    "accuracy_5": ("accuracy, 5 neighbours", "share of generated cells whose neighbours are of the type asked for"),
    "accuracy_10": ("accuracy, 10 neighbours", "the same of ten"),
    "accuracy_25": ("accuracy, 25 neighbours", "the same of twenty-five"),
    "label_transfer": ("label transfer", "accuracy of labels carried over by nearest neighbours"),
}
_DOWN = {
    "ece": ("calibration error", "mean distance of confidence and share correct (or predicted and observed)"),
    "brier": ("Brier score", "squared error of probabilities"),
    "w2": ("Wasserstein distance", "least mean way from generated to real cells; above 0 for equal distributions too"),
    "mae_top20": ("error, top 20", "absolute error of the change of the 20 most changed genes"),
    "energy": ("energy distance", "0 for equal distributions, and by chance below"),
    "mmd2": ("MMD2", "squared maximum mean discrepancy; 0 for equal distributions, and by chance below"),
    "frechet": ("Frechet distance", "of the Gaussians of both sets"),
    "one_nn": ("1-NN accuracy", "how often the nearest cell tells real from generated; 0.5 is not at all"),
    "log_loss": ("log loss", "surprise at the right label, nats a cell"),
    "contradictions": ("contradictions", "share of sentences with a value that the truth has otherwise"),
    "hallucinated_genes": ("hallucinated genes", "genes that are named although the cell does not express them"),
    "copies": ("copies", "generated cells that are training cells"),
    "foscttm": ("FOSCTTM", "share of cells nearer than the true match; 0.5 is chance"),
}
_NEITHER = {
    "bleu": ("BLEU", "runs of words shared with a caption of the true label; high for wrong captions too"),
    "rouge_l": ("ROUGE-L", "words in order shared with a caption of the true label; high for wrong captions too"),
    "discrepancy": ("textual discrepancy", "squared MMD of sentences and captions of the true labels"),
    "slope": ("slope", "slope of truth on prediction; 1 is calibrated"),
    "level_r": ("level r", "correlation of predicted and true depth"),
    "level_ratio": ("level ratio", "predicted over observed level; 1 is calibrated"),
    "prevalence": ("prevalence", "mean share of open cells, what AUPRC reaches by chance"),
    "depth_r": ("depth r", "largest correlation of an axis with log depth; depth can be biology, so it is not judged"),
    "depth_r2": ("depth R2", "share of log depth that all axes together explain in a linear fit"),
    "depth_r_in_type": ("depth r within type", "largest correlation of an axis with log depth within cell types"),
    "depth_r_equal": ("depth r, equal", "the same with the former depth, after thinning: what is left is biology"),
    "depth_r_full": ("depth r, full", "largest correlation of an axis with log depth, same cells as they are"),
    "variance_ratio": ("variance ratio", "variance of generated over real cells; 1 is right"),
    "memorisation_ratio": ("memorisation ratio", "distance to the nearest training cell over that of held-out cells"),
    "axis": ("axis", "number of the axis that follows depth most"),
    "features": ("features", "how many features were scored"),
}
MEASURES = {
    name: Measure(*words, direction)
    for direction, table in ((True, _UP), (False, _DOWN), (None, _NEITHER))
    for name, words in table.items()
}
_LOWER = {"loss", "ece", "error", "brier", "rmse", "mse", "mae", "deviance", "foscttm", "distance", "perplexity"}
_HIGHER = {
    *("r", "r2", "d2", "pearson", "spearman", "auroc", "auprc", "accuracy", "f1", "nmi", "ari", "asw", "silhouette"),
    *(
        "ilisi",
        "clisi",
        "lisi",
        "connectivity",
        "skill",
        "recall",
        "precision",
        "score",
        "bio",
        "overall",
        "mrr",
        "kbet",
    ),
}


def measure(name: str) -> Measure:
    """Look up what a column means by its name."""
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if key in MEASURES:
        return MEASURES[key]
    words = set(key.split("_"))
    if words & _LOWER and "skill" not in words:
        return Measure(name, "", False)
    return Measure(name, "", True if words & _HIGHER else None)
