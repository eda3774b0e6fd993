"""Whether what came out of a stage is in the order in which it went in, where it may begin again at an earlier place. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Walk = Literal["once", "whole runs", "late repeat", "broken"]


def walk(taken: Sequence[str], given: Sequence[str]) -> Walk:
    """How `given` follows `taken` (ids, each record for itself, in the order of the log).

    `once`: the same. `whole runs`: from some places on it begins again, and leaves nothing out. `late repeat`: what came out a second
    time is no whole run (an owner before, whose last records landed late), but everything came out, and first in order. Else `broken`.
    """
    if list(taken) == list(given):
        return "once"
    if _in_whole_runs(taken, given):
        return "whole runs"
    missing = Counter(taken) - Counter(given)
    return "late repeat" if not missing and list(dict.fromkeys(taken)) == list(dict.fromkeys(given)) else "broken"


def _in_whole_runs(taken: Sequence[str], given: Sequence[str]) -> bool:
    """Every place that the reader may be at is followed, since an id may stand in `taken` more than once."""
    places = {-1}
    for id in given:
        highest = max(places) + 1
        back = {place for place, other in enumerate(taken[:highest]) if other == id}
        on = {place + 1 for place in places if place + 1 < len(taken) and taken[place + 1] == id}
        places = on | back
        if not places:
            return False
    return len(taken) - 1 in places
