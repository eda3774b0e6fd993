"""Member statuses: which label stands for what, and which way they go. A status only ever advances. Pure."""

from collections.abc import Sequence
from typing import Final

from schemas.messages import Action
from schemas.settings import Statuses

LABEL_CHARACTERS: Final = 40
"""CampaignMember.Status takes no more."""

REGISTERED: Final = 0
NOT_ATTENDED: Final = 1
ATTENDED: Final = 2
FOREIGN: Final = 3
"""A status that isn't ours and counts as responded: left alone."""


def trimmed(label: str) -> str:
    """A label as it is written: without outer blanks, and with single ones."""
    return " ".join(label.split())


def folded(label: str) -> str:
    """What makes two labels the same: case and blanks make no difference."""
    return trimmed(label).lower()


def labels(statuses: Statuses) -> dict[str, bool]:
    """The labels that a Campaign must have, in order, each once, and whether it counts as responded; the first is the default."""
    wanted: dict[str, tuple[str, bool]] = {}
    for label, responded in ((statuses.registered, False), (statuses.not_attended, False), (statuses.attended, True)):
        text = trimmed(label)[:LABEL_CHARACTERS].rstrip()
        spelled, before = wanted.get(folded(text), (text, False))
        wanted[folded(text)] = (spelled, before or responded)
    return dict(wanted.values())


def label_of(rank: int, statuses: Statuses) -> str:
    """The label of the settings for a rank."""
    text = (statuses.registered, statuses.not_attended, statuses.attended)[rank]
    return trimmed(text)[:LABEL_CHARACTERS].rstrip()


def rank_of(action: Action) -> int:
    """The rank that an action asks for; a replay view asks for no more than to be there."""
    return {"registered": REGISTERED, "not_attended": NOT_ATTENDED, "attended": ATTENDED, "watched_replay": REGISTERED}[action]


def rank_held(label: str | None, responded: bool, statuses: Statuses) -> int:
    """The rank of the status that a member has."""
    if label is None or not label.strip():
        return -1
    ranks = [rank for rank in (REGISTERED, NOT_ATTENDED, ATTENDED) if folded(label) == folded(label_of(rank, statuses))]
    if ranks:
        return max(ranks)
    return FOREIGN if responded else REGISTERED


def spelled(label: str, known: Sequence[str]) -> str | None:
    """The Campaign's own spelling of a label; None where it has no such status (writing it would silently give the default)."""
    return next((one for one in known if folded(one) == folded(label)), None)
