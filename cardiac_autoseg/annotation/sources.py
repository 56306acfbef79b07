"""What a run is trained on: the strings that ``--gt`` takes and that :class:`RunKey` carries as ``gt``.

==========================  ===================================================================================
``expert``                  one source
``expert@20``               20 of the fold's training subjects, for learning curves
``all``                     every source that is not derived, each label with its annotator (training/annotators.py)
``all:a+b``                 those sources; derived ones may be among them
``all:t:a+b``               those and t, whose labels are taken for the truth that the others are confusions of
``all:a+b@20``, ``all@20``  the same on 20 subjects
==========================  ===================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.errors import UserError

ALL = "all"


@dataclass(frozen=True)
class TrainingSet:
    """Label sources to train on. ``subjects``: how many of the fold's training subjects, None for all that are covered.

    More than one source means a confusion layer for each annotator but ``truth``, if that is one of them.
    """

    sources: tuple[str, ...]
    subjects: int | None = None
    truth: str | None = None


def parse_gt(text: str, dataset: Dataset) -> TrainingSet:
    """The training set that ``text`` names; :class:`UserError` for a malformed text or an unknown source.

    ``truth`` comes first in ``sources``; the others are in the order given, or for ``all`` in that of the index.
    """
    names, at, count = text.partition("@")
    if at and not (count.isdecimal() and count.isascii() and int(count) > 0 and count == str(int(count))):
        raise UserError(f"--gt {text}: after @ comes a number of subjects to train on, as in {names or 'expert'}@20")
    subjects = int(count) if at else None
    kind, *parts = names.split(":")
    if kind != ALL or names in dataset.sources:
        dataset.labelled(names)
        return TrainingSet((names,), subjects)
    if len(parts) > 2:
        raise UserError(f"--gt {text}: expected all, all:a+b, or all:t:a+b where t is the source taken for the truth")
    truth = parts[0] if len(parts) == 2 else None
    drawn = [name for name, source in dataset.sources.items() if not source.derived]
    given = parts[-1].split("+") if parts else drawn
    sources = tuple(name for name in (truth, *given) if name is not None)
    for name in sources:
        dataset.labelled(name)
    if len(set(sources)) < len(sources):
        raise UserError(f"--gt {text}: a source is named twice")
    if len(sources) < 2:
        raise UserError(f"--gt {text}: learning from several annotators needs at least 2 sources, not {', '.join(sources)}")
    return TrainingSet(sources, subjects, truth)


def scoring_source(text: str, dataset: Dataset) -> str:
    """The one source to score runs of ``text`` against where no reference is named: the truth, else the first source."""
    return parse_gt(text, dataset).sources[0]


def simulated(text: str, dataset: Dataset) -> bool:
    """Whether any source of the training set ``text`` is simulated. A text that cannot be read any more is not."""
    try:
        return any(dataset.sources[name].simulated for name in parse_gt(text, dataset).sources)
    except UserError:
        return False
