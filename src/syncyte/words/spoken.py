"""What a speaker says of a cell: values first, each behind a mark, then a sentence with marks in place of the values.

``<type> B cell <condition> control <say> This cell is a <=type>. Expressed markers: <=markers>.``

The values can be forced, compared, or checked before anything is filled in, so a sentence cannot contradict them; genes
are filled in from what the cell expresses, definitions from the ontology. A sentence with a mark for which there is no
value loses that sentence alone.
Leaves out: the speaker (``nn.language``), where values come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from syncyte.words.captions import SLOTS, plain, with_article, wordings

FIELDS = ("type", "tissue", "disease", "stage", "condition")  # what is said first, in this order
SAY = "<say>"
MARKS = (*(f"<{name}>" for name in FIELDS), SAY, *(f"<={name}>" for name in SLOTS))
_FIELD = re.compile(r"\{(\w+)\}")
_MARK = re.compile(r"<=(\w+)>")
_LOOSE = re.compile(r"(<=\w+>)\s+(?=[.,;:])")
_BRACKETS = re.compile(r"<(?==?\w+>)")


def write_spoken(values: Mapping[str, str], slots: Sequence[str], wording: int) -> str:
    """What is learned to be said.

    Parameters
    ----------
    values
        By field; empty ones are left out.
    slots
        Slots that the sentence speaks of.
    wording
        Number of one of ``captions.wordings``.
    """
    first = [f"<{name}> {_safe(values[name])}" for name in FIELDS if values.get(name)]
    said = set(slots) | {name for name in FIELDS if values.get(name)}
    sentences = [text for text in wordings()[wording] if all(name in said for name in _FIELD.findall(text))]
    marked = [_FIELD.sub(lambda found: f"<={found[1]}>", text) for text in sentences]
    return " ".join([*first, SAY, *marked])


def write_value(name: str, value: str) -> str:
    """The stretch that says one value."""
    return f"<{name}> {_safe(value)}"


def read_spoken(text: str) -> tuple[dict[str, str], str]:
    """Values by field, and the sentence with its marks."""
    before, _, sentence = text.partition(SAY)
    parts = re.split("(" + "|".join(re.escape(f"<{name}>") for name in FIELDS) + ")", before)
    values = {mark[1:-1]: value.strip() for mark, value in zip(parts[1::2], parts[2::2]) if value.strip()}
    return values, tidy(sentence)


def tidy(text: str) -> str:
    """Text of decoded pieces, where a mark is followed by a blank whatever comes next."""
    return _LOOSE.sub(r"\1", text).strip()


def fill_spoken(sentence: str, slots: Mapping[str, str | Sequence[str]]) -> str:
    """The sentence with values in place of marks; sentences whose value is not known are left out.

    Values are put in as they are and never read as marks themselves.
    """
    kept = []
    for part in re.split(r"(?<=[.>])\s+(?=[A-Z])", sentence.strip()):
        names = _MARK.findall(part)
        if not names or any(not slots.get(name) for name in names):
            continue
        pieces = _MARK.split(part)
        for place in range(1, len(pieces), 2):
            pieces[place] = _shown(slots[pieces[place]])
            pieces[place - 1] = with_article(pieces[place - 1], pieces[place])
        kept.append("".join(pieces))
    return " ".join(kept)


def sound(sentence: str) -> bool:
    """Whether a spoken sentence can be used: it names the type once, no slot twice, and is made of known sentences."""
    names = _MARK.findall(sentence)
    known = {_FIELD.sub(lambda found: f"<={found[1]}>", text) for wording in wordings() for text in wording}
    parts = re.split(r"(?<=[.>])\s+(?=[A-Z])", sentence.strip())
    return names.count("type") == 1 and len(set(names)) == len(names) and all(part in known for part in parts)


def draw_slots(available: Sequence[str], drop: float, rng: np.random.Generator) -> list[str]:
    """Slots beside the fields that a sentence speaks of, some left out at random."""
    return [name for name in available if rng.random() >= drop]


def _safe(value: str) -> str:
    return _BRACKETS.sub("(", plain(value))


def _shown(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "; ".join(value)
