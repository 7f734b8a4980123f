"""Files of ontologies: OBO text, OBO graphs in JSON, and the compact JSON of cellxgene-ontology-guide.

Plain, gzip or zstandard, told by the first bytes and not by the name. Ancestors are taken from the file or counted
along "is a"; synonyms that name something broader are left out.
Leaves out: OWL (convert it to OBO first), and every relation but "is a".
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.errors import GenomeError
from syncyte.genome.ontology import Ontology, Term, canonical_id

if TYPE_CHECKING:
    import pandas as pd

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(\w*)')
_FORMATS = "OBO text (.obo), OBO graphs (.json) or the JSON of cellxgene-ontology-guide (.json.zst)"
_REPLACED = "IAO_0100001"
_COLUMNS = ("label", "synonyms", "definition", "ancestors", "retired", "replaced_by")
_DANGLING = 0.002  # share of parents that may be missing from a whole file


def read_ontology(path: str | os.PathLike[str]) -> Ontology:
    """Read an ontology.

    Parameters
    ----------
    path
        File in one of the formats of this module.

    Raises
    ------
    GenomeError
        If the file is missing, empty, cut short, or in no known format.
    """
    place = Path(path).expanduser()
    text = _text(place)
    start = text.lstrip()[:4000]
    if not start:
        raise GenomeError(f"{place} is empty. Expected {_FORMATS}.")
    if start[0] in "{[":
        terms = _from_json(place, text)
    elif start.startswith("format-version:") or "\n[Term]" in text or start.startswith("[Term]"):
        terms = _from_obo(place, text)
    else:
        owl = start.startswith(("<", "Prefix(", "Ontology("))
        hint = " This looks like OWL: convert it to OBO, or fetch the .obo of the same release." if owl else ""
        raise GenomeError(f"{place} starts with {start[:40]!r}; expected {_FORMATS}.{hint}")
    if not any(not term.retired for term in terms.values()):
        raise GenomeError(f"{place} holds no term in use. Expected {_FORMATS}.")
    named = re.search(r'^ontology: (\w+)|"id" ?: ?"[^"]*/obo/(\w+?)[./]', start, re.MULTILINE)
    prefix = next(filter(None, named.groups()), "").upper() if named else ""
    return Ontology(place.name, terms, prefix)


def _text(place: Path) -> str:
    try:
        raw = place.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        elif raw[:4] == b"\x28\xb5\x2f\xfd":
            raw = _unzstd(place, raw)
        return raw.decode("utf-8-sig")
    except IsADirectoryError as error:
        raise GenomeError(f"{place} is a folder; name a file: {_FORMATS}.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _cut(place, str(error)) from error
    except UnicodeDecodeError as error:
        raise GenomeError(f"{place} is not text ({error.reason}). Expected {_FORMATS}.") from error
    except FileNotFoundError as error:
        raise GenomeError(f"{place} does not exist. Check the path.") from error
    except OSError as error:
        raise GenomeError(f"{place} cannot be read: {error.strerror or error}.") from error


def _unzstd(place: Path, raw: bytes) -> bytes:
    from numcodecs.zstd import Zstd

    try:
        return bytes(Zstd().decode(raw))
    except (RuntimeError, ValueError) as error:
        raise _cut(place, str(error)) from error


def _cut(place: Path, why: str) -> GenomeError:
    return GenomeError(f"{place} is damaged or cut short ({why}). Fetch or copy it again.")


def _from_json(place: Path, text: str) -> dict[str, Term]:
    try:
        table = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _cut(place, f"not whole JSON: {error}") from error
    try:
        if isinstance(table, dict) and isinstance(table.get("graphs"), list):
            return _from_graphs(place, table["graphs"])
        if isinstance(table, dict) and table and all(_is_compact(item) for item in table.values()):
            return _from_compact(table)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GenomeError(f"{place} has an entry that cannot be read ({error!r}). Expected {_FORMATS}.") from error
    kind = f"keys {list(table)[:3]}" if isinstance(table, dict) else f"a {type(table).__name__}"
    raise GenomeError(f"{place} is JSON with {kind}; expected {_FORMATS}.")


def _is_compact(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("label"), str) and isinstance(item.get("ancestors"), dict)


def _from_compact(table: Mapping[str, Any]) -> dict[str, Term]:
    live = {key for key, item in table.items() if not item.get("deprecated")}
    return {
        key: Term(
            id=key,
            label=item["label"].strip(),
            synonyms=_others(item["label"], item.get("synonyms", ())),
            definition=str(item.get("description") or ""),
            ancestors={above: int(far) for above, far in item["ancestors"].items() if above in live},
            retired=key not in live,
            replaced_by=canonical_id(str(item.get("replaced_by") or "")),
        )
        for key, item in table.items()
    }


def _from_graphs(place: Path, graphs: Iterable[Mapping[str, Any]]) -> dict[str, Term]:
    terms: dict[str, Term] = {}
    parents: dict[str, list[str]] = {}
    for graph in graphs:
        for node in graph.get("nodes", ()):
            label, meta = str(node.get("lbl") or "").strip(), node.get("meta") or {}
            if node.get("type", "CLASS") != "CLASS" or not label:
                continue
            key = canonical_id(node["id"])
            names = [item["val"] for item in meta.get("synonyms", ()) if item.get("pred") != "hasBroadSynonym"]
            values = meta.get("basicPropertyValues", ())
            by = next((item["val"] for item in values if str(item.get("pred")).endswith(_REPLACED)), "")
            definition = (meta.get("definition") or {}).get("val", "")
            retired = bool(meta.get("deprecated"))
            terms[key] = Term(key, label, _others(label, names), definition, {}, retired, canonical_id(by))
        for edge in graph.get("edges", ()):
            if edge.get("pred") == "is_a":
                parents.setdefault(canonical_id(edge["sub"]), []).append(canonical_id(edge["obj"]))
    return _with_ancestors(place, terms, parents)


def _from_obo(place: Path, text: str) -> dict[str, Term]:
    terms: dict[str, Term] = {}
    parents: dict[str, list[str]] = {}
    stanzas = re.split(r"^\[(\w+)\][ \t]*\r?$", text, flags=re.MULTILINE)
    for kind, body in zip(stanzas[1::2], stanzas[2::2]):
        if kind != "Term":
            continue
        tags: dict[str, list[str]] = {}
        for line in body.splitlines():
            tag, separator, value = line.partition(": ")
            if separator:
                tags.setdefault(tag.strip(), []).append(value.strip())
        if "id" not in tags:
            raise GenomeError(f"{place} has a [Term] without an id: {body.strip()[:60]!r}. Is the file cut or edited?")
        key = canonical_id(tags["id"][0])
        synonyms = [match for item in tags.get("synonym", ()) if (match := _QUOTED.match(item)) is not None]
        definition = _QUOTED.match(tags.get("def", [""])[0])
        label = tags.get("name", [""])[0]
        terms[key] = Term(
            id=key,
            label=label,
            synonyms=_others(label, (_unescaped(item[1]) for item in synonyms if item[2] != "BROAD")),
            definition=_unescaped(definition[1]) if definition else "",
            retired=_plain(tags.get("is_obsolete", ["false"])[0]) == "true",
            replaced_by=canonical_id(_plain(tags.get("replaced_by", [""])[0])),
        )
        parents[key] = [canonical_id(_plain(item)) for item in tags.get("is_a", ())]
    nameless = [key for key, term in terms.items() if not term.label]
    if terms and nameless == [list(terms)[-1]]:
        raise _cut(place, f"its last term {nameless[0]} has no name")
    return _with_ancestors(place, {key: term for key, term in terms.items() if term.label}, parents)


def _plain(value: str) -> str:
    """Value of a tag without a trailing comment or qualifiers."""
    return re.split(r"\s*[!{]", value)[0].strip()


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": " ", "W": " ", "t": " "}.get(match[1], match[1]), text)


def _others(label: str, names: Iterable[Any]) -> tuple[str, ...]:
    """Names that are not the label, each once."""
    kept = dict.fromkeys(name for item in names if (name := str(item).strip()))
    kept.pop(label.strip(), None)
    return tuple(kept)


def _with_ancestors(place: Path, terms: dict[str, Term], parents: Mapping[str, list[str]]) -> dict[str, Term]:
    """Terms with the steps to all that is above them, counted along "is a"."""
    edges = [(key, up) for key, ups in parents.items() for up in ups if key in terms and not terms[key].retired]
    own = [(key, up) for key, up in edges if key.partition(":")[0] == up.partition(":")[0]]
    lost = [up for _, up in own if up not in terms]
    if len(lost) > max(_DANGLING * len(own), 0.5):
        example = ", ".join(sorted(set(lost))[:3])
        raise _cut(place, f"{len(set(lost))} terms are named as parents and missing, such as {example}")
    found = {}
    for key, term in terms.items():
        above: dict[str, int] = {}
        level = [] if term.retired else [up for up in parents.get(key, ()) if up in terms]
        far = 1
        while level:
            fresh = [up for up in dict.fromkeys(level) if up not in above and up != key]
            above |= dict.fromkeys(fresh, far)
            level = [up for low in fresh for up in parents.get(low, ()) if up in terms]
            far += 1
        found[key] = replace(term, ancestors=above)
    return found


def ontology_table(ontology: Ontology) -> pd.DataFrame:
    """Everything known of every term as a table of texts, one row a term; ``ontology_of`` reads it back."""
    import pandas as pd

    rows = [
        (
            term.label,
            json.dumps(list(term.synonyms), ensure_ascii=False),
            term.definition,
            " ".join(f"{key}={far}" for key, far in term.ancestors.items()),
            term.retired,
            term.replaced_by,
        )
        for term in ontology.terms.values()
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS), index=pd.Index(list(ontology.terms), name="id"))


def ontology_of(table: pd.DataFrame, name: str, prefix: str) -> Ontology:
    """The ontology of such a table."""
    terms = {}
    for key, label, synonyms, definition, above, retired, replaced in table[list(_COLUMNS)].itertuples():
        far = {one: int(steps) for one, _, steps in (part.rpartition("=") for part in above.split())}
        terms[key] = Term(key, label, tuple(json.loads(synonyms)), definition, far, bool(retired), replaced)
    return Ontology(name, terms, prefix)
