"""What a sentence says of tissue, disease, stage and condition, put into the words that a run was trained on.

Whoever reads a text by its words and letters takes "unstimulated" for "stimulated", and is moved by "from lung" where
no training text named a tissue. So a condition that is denied ("unstimulated", "not treated", "without interferon",
"resting") becomes the control of the training cells, and fields that no training text spoke of are left out; both are
said. What is part of a name stays as it is ("lung macrophage", "activated CD4-positive T cell").
Leaves out: what a text says of the type, and types that it excludes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from syncyte.words.captions import parse_caption
from syncyte.words.query import COMMON

OWN = "own text"  # column of texts that users gave, beside the fields
FIELDS = ("tissue", "disease", "stage", "condition")
CONTROL = frozenset(  # how data sets call cells to which nothing was done, without signs between letters
    re.findall(
        r"\w+",
        """control controls ctrl ctl ctr untreated unstimulated unstim unperturbed uninfected unexposed notreatment
        nontreated nonstimulated nostimulation vehicle mock baseline resting none dmso pbs medium media""",
    )
)
_WORDS = {
    "tissue": "blood|peripheral blood|cord blood|pbmcs?|bone marrow|marrow|spleen|thymus|lymph nodes?|tonsils?|lungs?|"
    "airways?|trachea|nose|brain|cortex|cerebellum|hippocampus|spinal cord|retina|eyes?|skin|liver|kidneys?|hearts?|"
    "muscles?|skeletal muscle|pancreas|islets?|stomach|intestines?|small intestine|large intestine|gut|ileum|jejunum|"
    "duodenum|colon|rectum|oesophagus|esophagus|bladder|prostate|testis|testes|ovary|ovaries|uterus|endometrium|placenta|"
    "breast|mammary gland|thyroid|adrenal gland|adipose tissue|fat tissue|bone|cartilage|synovium|synovial fluid|"
    "cerebrospinal fluid|csf|urine|saliva|aorta|vessels?",
    "disease": "lupus|systemic lupus erythematosus|sle|covid-?\\s?19|covid|sars-cov-2|influenza|flu|cancers?|tumou?rs?|"
    "leuk[ae]+mia|lymphoma|melanoma|carcinoma|adenocarcinoma|glioma|glioblastoma|neuroblastoma|diabetes|asthma|copd|"
    "fibrosis|cirrhosis|hepatitis|arthritis|rheumatoid arthritis|multiple sclerosis|alzheimer(?:'?s)?(?: disease)?|"
    "parkinson(?:'?s)?(?: disease)?|crohn(?:'?s)?(?: disease)?|colitis|ulcerative colitis|psoriasis|sepsis|malaria|"
    "tuberculosis|hiv|aids|obesity|disease|healthy|normal|diseased",
    "stage": "f(?:o?)etal|f(?:o?)etus(?:es)?|embryonic|embryos?|newborns?|neonatal|neonates?|infants?|child|children|"
    "adolescents?|adults?|aged|elderly|old|young",
}
_ACT = "stimulat|treat|perturb|infect|expos|challeng"
_DONE = (
    rf"(?:{_ACT})ed|infected|exposed|induced|stimulation|treatment|activation|perturbation|infection|exposure|stimulus"
)
_AGENT = (
    r"(?:type (?:i|ii|1|2) )?(?:interferons?|ifn)(?:[ -]?(?:alpha|beta|gamma|lambda|a|b|g|α|β|γ|λ|i|ii|1|2))?\b|"
    r"cytokines?|lps|lipopolysaccharide|tnf(?:[ -]?(?:alpha|α|a))?\b|il-?\d+\w*|drugs?|"
    r"compounds?|ligands?|antigens?|dexamethasone"
)
_WITH = rf"(?:\s+(?:with|by|to|of)\s+(?:the\s+|any\s+|a\s+|an\s+)?(?:{_AGENT}|VALUES)(?:\s+(?:{_DONE}))?)?"
_DENIED = (
    r"\b(?:(?:that|which)\s+(?:were|are|was|is|have been|had been)\s+|(?:were|are)\s+)?"
    rf"(?:(?:un|non)-?(?:{_DONE}|VALUES)|"
    rf"(?:not|never|non)[\s-]+(?:been\s+|yet\s+)?(?:{_DONE}|VALUES)|"
    rf"(?:without|no|lacking|free\s+of|in\s+the\s+absence\s+of)\s+(?:any\s+|the\s+|further\s+|prior\s+)?"
    rf"(?:(?:{_AGENT}|VALUES)(?:\s+(?:{_DONE}))?|{_DONE})){_WITH}(?![\w-])"
)
_PLACED = (
    r"(?:(?:\b(?:that|which)\s+(?:were|are|was|is|come|came)\s+)?\b(?:taken|isolated|sampled|derived|obtained|collected|"
    r"found|residing|coming)\s+)?\b(?:from|in|of|within|at|with)\s+(?:the\s+|an?\s+|some\s+)?"
    r"(?:(?:human|mouse|murine|primary|donors?|patients?)\s+(?:with\s+)?)*"
)
_WHOSE = r"(?:\s+(?:tissues?|samples?|biops(?:y|ies)|patients?|donors?|individuals?|people|disease))*"
_NOT_CELLS = r"(?!\s+\w*(?:cell|cyte|phage|blast)s?\b)"  # "skin cells" is what they are, not where they were
_LONGEST = 6  # words of a name


def settle_fields(
    text: str,
    values: Mapping[str, Sequence[str]],
    spoken: Iterable[str] = (),
    known: Callable[[str], bool] | None = None,
) -> tuple[str, list[str]]:
    """The text as a run can read it, and what was done to it.

    Parameters
    ----------
    text
        A sentence that asks for cells, or a caption.
    values
        Values of each field among the training cells; a field without any was never spoken of.
    spoken
        Further texts of training: what they name is known.
    known
        Whether a text is the name of something, whose words are left alone.
    """
    known = known or (lambda name: False)
    heard = " \n ".join([*(str(value) for row in values.values() for value in row), *map(str, spoken)]).lower()
    text, notes = _conditions(text, [str(value) for value in values.get("condition", ()) if str(value)], known)
    settled = _without_sentences(text, values, heard, notes)
    for name, words in _WORDS.items():
        settled = _without_words(settled, name, words, values, heard, known, notes)
    if not values.get("condition"):
        phrase = (
            rf"\b(?:(?:un|non)-?)?(?:{_ACT})ed(?:\s+(?:with|by|to)\s+[^,;.]*?(?=\s+(?:from|in|of|and|or)\b|[,;.]|$))?"
        )
        settled = _cut(settled, phrase, "condition", values, heard, known, notes)
    if settled != text and not _says(settled):
        return text, [f"{text!r} speaks of nothing but fields that no training text named: cells may be anything."]
    return settled, notes


def control_of(values: Sequence[str]) -> str | None:
    """The value that means that nothing was done; None where none or several do."""
    found = [value for value in values if re.sub(r"[^a-z]", "", value.lower()) in CONTROL]
    return found[0] if len(found) == 1 else None


def _conditions(text: str, values: Sequence[str], known: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Denied conditions as the control."""
    if not values:
        return text, []
    own = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
    denied = re.compile(_DENIED.replace("VALUES", own) + r"|\bresting\b", re.IGNORECASE)
    control, rest, found, start = control_of(values), [], [], 0
    for match in denied.finditer(text):
        phrase = match[0].strip()
        if phrase.lower() in {value.lower() for value in values} or _in_name(text, match.span(), known):
            continue
        found.append(phrase)
        rest.append(text[start : match.start()])
        start = match.end()
    if not found:
        return text, []
    value = control or _opposite(found, values)
    if value is None:
        return text, [
            f"{', '.join(map(repr, found))}: which condition of training is the control is not clear (there are "
            f"{', '.join(values[:5])}), so it is read word by word; use one of these."
        ]
    body = _tidy("".join([*rest, text[start:]]))
    if not re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", body, re.IGNORECASE):
        body = f"{value} {re.sub(r'^(?:an?|the) ', '', body, flags=re.IGNORECASE)}".strip()
    return body, [f"{', '.join(map(repr, found))} is read as {value!r}, a condition of training: {body!r}."]


def _opposite(found: Sequence[str], values: Sequence[str]) -> str | None:
    """Of two values the one that is not denied."""
    if len(values) != 2:
        return None
    named = [value for value in values if any(value.lower() in phrase.lower() for phrase in found)]
    return next(value for value in values if value != named[0]) if len(named) == 1 else None


def _without_sentences(text: str, values: Mapping[str, Sequence[str]], heard: str, notes: list[str]) -> str:
    """Sentences of a caption that say nothing but a value never heard are left out."""
    bar = " | " in text
    parts = text.split(" | ") if bar else re.split(r"(?<=\.)\s+", text)
    kept = []
    for part in parts:
        said = parse_caption(part)
        name = next(iter(said), "")
        if len(said) == 1 and name in FIELDS and str(said[name]).lower() not in heard:
            notes.append(_left_out(part, name, values))
        else:
            kept.append(part)
    return text if len(kept) == len(parts) else (" | " if bar else " ").join(kept)


def _without_words(
    text: str,
    name: str,
    words: str,
    values: Mapping[str, Sequence[str]],
    heard: str,
    known: Callable[[str], bool],
    notes: list[str],
) -> str:
    """Phrases with one of the words of a field, unless training spoke of it or it is part of a name."""
    alone = rf"(?!\s*(?:,|and\b|or\b)\s*(?:{words})\b)"  # of several places each is looked at
    for phrase in (rf"{_PLACED}\b(?P<word>{words})\b{_WHOSE}{alone}", rf"\b(?P<word>{words})\b{_WHOSE}"):
        text = _cut(text, phrase + _NOT_CELLS, name, values, heard, known, notes)
    return text


def _cut(
    text: str,
    phrase: str,
    name: str,
    values: Mapping[str, Sequence[str]],
    heard: str,
    known: Callable[[str], bool],
    notes: list[str],
) -> str:
    kept, start = [], 0
    for match in re.finditer(phrase, text, re.IGNORECASE):
        word = match.groupdict().get("word") or match[0]
        at = match.span("word") if "word" in match.groupdict() else match.span()
        if re.search(rf"\b{re.escape(word.lower())}\b", heard) or _in_name(text, at, known):
            continue
        kept.append(text[start : match.start()])
        start = match.end()
        notes.append(_left_out(match[0].strip(), name, values))
    return _tidy("".join([*kept, text[start:]])) if start else text


def _left_out(phrase: str, name: str, values: Mapping[str, Sequence[str]]) -> str:
    some = [str(value) for value in values.get(name, ()) if str(value)][:5]
    told = f"(training texts name {', '.join(some)})" if some else f"(none named a {name})"
    return f"{phrase!r} is left out: no training text of this run spoke of it {told}."


def _in_name(text: str, span: tuple[int, int], known: Callable[[str], bool]) -> bool:
    """Whether the words of a span stand in a longer name of something."""
    words = [match.span() for match in re.finditer(r"[^\s,;.|]+", text)]
    inside = [place for place, (a, b) in enumerate(words) if a < span[1] and b > span[0]]
    if not inside:
        return False
    for first in range(max(inside[0] - 2, 0), inside[0] + 1):
        if re.fullmatch(r"an?|the", text[slice(*words[first])], re.IGNORECASE):
            continue
        for last in range(inside[-1] + (first == inside[0]), min(first + _LONGEST, len(words))):
            part = text[words[first][0] : words[last][1]]
            if not re.search(r"\b(?:from|in|of|at|with|without|not)\b", part, re.IGNORECASE) and known(part):
                return True
    return False


def _says(text: str) -> bool:
    return any(word not in COMMON for word in re.findall(r"[a-z0-9]+", text.lower()))


def _tidy(text: str) -> str:
    """Blanks and signs as they should be after something was cut out."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,;.])", r"\1", text)
    text = re.sub(r"([,;])(?:\s*[,;])+", r"\1", text)
    text = re.sub(r"^(?:(?:and|or)\s+)+", "", text)
    text = re.sub(r"\b(and|or|from|in|of|within|at|with)\s+(?:(?:and|or)\s+)+", r"\1 ", text)
    text = re.sub(r"(?:\s*\b(?:and|or|but|that|which|were|are|from|in|of|within|at|with))+\s*([.,;]|$)", r"\1", text)
    return re.sub(r"^[\s,;.]+|[\s,;]+$", "", text).strip()
