"""What can be said about a training before it begins: whether there is anything to be learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.training.inputs import FoldCases


def learnable(store: PreprocessedStore, classes: Sequence[str], cases: FoldCases) -> list[str]:
    """What the training cases do not show, in sentences for the user and the record; ``classes`` begin with the background.

    Raises :class:`UserError` if there is nothing but background. Usually reads the labels of one case.
    """
    seen = {source: _classes_of(store, len(classes), ids, source) for source, ids in cases.training.items()}
    together = set().union(*seen.values())
    if not together:
        raise UserError(
            f"all labels of {_named(list(seen))} on the {len(cases.trained)} training cases are background: there is nothing"
            " to learn. Look at the label files, and at the label values given when they were imported"
        )
    notes = []
    if missing := [name for value, name in enumerate(classes) if value and value not in together]:
        notes.append(
            f"no label of {_named(list(seen))} on the training cases is {' or '.join(missing)}: the network cannot"
            " learn it, and will not predict it"
        )
    for source, own in seen.items():
        if lacking := [name for value, name in enumerate(classes) if value in together and value not in own]:
            notes.append(f"source {source!r} never draws {' or '.join(lacking)} in the training cases; others do")
    if cases.subjects == 1:
        notes.append("all training cases are of one subject: what is learned from it may hold for nobody else")
    return notes


def _classes_of(store: PreprocessedStore, count: int, ids: Sequence[str], source: str) -> set[int]:
    """The foreground classes that a source draws; reads no further when all are found."""
    found: set[int] = set()
    for case in ids:
        found |= set(np.flatnonzero(np.bincount(store.labels(case, source, mapped=True).ravel())).tolist()) - {0}
        if len(found) >= count - 1:
            break
    return found


def _named(sources: Sequence[str]) -> str:
    return f"source {sources[0]!r}" if len(sources) == 1 else f"the sources {', '.join(map(repr, sources))}"
