"""What `turnout workspace` tells: settings, health, and each session with its Campaign or why it has none. Pure: from rows and lag."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pipeline.lanes import org_lane, workspace_lane
from pipeline.tables import readable
from pipeline.worker import LOST
from schemas.settings import Workspace
from schemas.tables import CampaignRow, EventRow, SessionRow
from stages.lag import rfc3339
from stages.normalize import closed
from stages.rows import CAMPAIGNS, EVENTS, SESSIONS
from stages.settings.changes import masked_workspace

Json = dict[str, Any]
Rows = Mapping[str, bytes]

NO_CAMPAIGN: Final = "No campaign associated to the session"
OUTDATED: Final = "The campaign is not up to date"
WORSE: Final = ("ok", "busy", "waiting", "replay", "paused", "blocked")
"""States of a workspace, the worse the later."""
EXPECTED: Final = frozenset(("past_session", "breakout_room", "past"))
"""Why a session has no Campaign and needs none."""


def health(workspace: Workspace, lanes: Sequence[Json]) -> Json:
    """`{"state", "reason", "waiting", "org_waiting", "lanes"}`: what stands in this workspace's way, its org's troubles too.

    `waiting` is its own; who of an org's workspaces those are that wait in the org's lane is not known: `org_waiting` are all of them.
    """
    ours = [lane for lane in lanes if concerns(lane["lane"], workspace)]
    org = org_lane(workspace.org)
    if workspace.paused:
        state, reason = "paused", f"paused by hand: `turnout workspace resume {workspace.id}`"
    elif why := closed(workspace):
        state, reason = "off", why
    else:
        # What the log has lost stands in nobody's way any more. Of two as bad, its own trouble says more than its org's.
        worst = max(
            (lane for lane in ours if not lane["cause"].startswith(f"{LOST}:")),
            key=lambda lane: (WORSE.index(lane["state"]), lane["lane"] != org),
            default=None,
        )
        state, reason = (worst["state"], worst["cause"]) if worst else ("ok", "")
        if worst and worst["lane"] == org:
            reason = f"org {workspace.org}: {reason}"
    return {
        "state": state,
        "reason": reason,
        "waiting": sum(lane["waiting"] for lane in ours if lane["lane"] != org),
        "org_waiting": sum(lane["waiting"] for lane in ours if lane["lane"] == org),
        "lanes": ours,
    }


def concerns(lane: str, workspace: Workspace) -> bool:
    """Whether a lane is the workspace's, wider than it, or within it."""
    own = workspace_lane(workspace.org, workspace.id)
    return lane == own or own.startswith(lane + "/") or lane.startswith(own + "/")


def sessions(workspace: Workspace, session_rows: Rows, event_rows: Rows, campaign_rows: Rows) -> list[Json]:
    """Every session that is known, the latest first."""
    known = (readable(SESSIONS, key, value, SessionRow) for key, value in session_rows.items())
    ours = sorted((row for row in known if row is not None and row.workspace == workspace.id), key=lambda row: (-_begins(row), row.id))
    return [_session(workspace, row, event_rows.get(row.event), campaign_rows.get(f"{workspace.org}|{row.id}")) for row in ours]


def _session(workspace: Workspace, row: SessionRow, event: bytes | None, campaign: bytes | None) -> Json:
    told = readable(EVENTS, row.event, event, EventRow)
    title = told.title if told is not None else row.name
    made = readable(CAMPAIGNS, row.id, campaign, CampaignRow)
    return {
        "id": row.id,
        "title": title,
        "starts_at": rfc3339(_begins(row) * 1000),
        "timezone": row.timezone,
        "status": row.status,
        "campaign": made.campaign or None if made else None,
        "problem": _problem(row, told, made),
    }


def _begins(row: SessionRow) -> int:
    return row.estimated_started_at or row.started_at


def _problem(row: SessionRow, event: EventRow | None, made: CampaignRow | None) -> str | None:
    if made is None and event is None and not row.past and not row.breakout:
        return f"{NO_CAMPAIGN}: Livestorm has not told of its event {row.event} yet"
    if made is None or made.why is None or made.why.code in EXPECTED:
        return None
    return f"{OUTDATED if made.campaign else NO_CAMPAIGN}: {made.why.message}"


def overview(workspaces: Iterable[Workspace], lanes: Sequence[Json]) -> list[Json]:
    """One line for each workspace."""
    return [
        {
            "id": one.id,
            "name": one.name or one.id,
            "org": one.org,
            "enabled": one.enabled,
            "paused": one.paused,
            "health": health(one, lanes),
        }
        for one in sorted(workspaces, key=lambda one: one.id)
    ]


def detail(workspace: Workspace, lanes: Sequence[Json], session_rows: Rows, event_rows: Rows, campaign_rows: Rows) -> Json:
    """The document of `turnout workspace show --json`."""
    return {
        **masked_workspace(workspace),
        "health": health(workspace, lanes),
        "sessions": sessions(workspace, session_rows, event_rows, campaign_rows),
    }
