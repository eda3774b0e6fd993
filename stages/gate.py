"""Which lanes the settings keep closed: workspaces paused by hand. Follows the table `workspaces`; asked for every message."""

import msgspec

from pipeline.lanes import workspace_lane
from pipeline.messages import Message
from pipeline.stage import Closed
from pipeline.tables import Table
from schemas.messages import Cause
from schemas.settings import Workspace

PAUSED = Cause(code="paused", message="The workspace was paused by hand.", hint="`turnout workspace resume ID` lets it go on, in order.")


class PausedWorkspaces:
    """Implements `pipeline.stage.Gate`."""

    def __init__(self, workspaces: Table) -> None:
        self._table = workspaces
        self._paused: set[str] = set()
        for key in dict(workspaces.items()):
            self._changed(key)
        workspaces.subscribe(self._changed)

    def closed(self, message: Message) -> Closed | None:
        if message.workspace in self._paused and message.kind != "company":
            return Closed(workspace_lane(message.org, message.workspace), "paused", PAUSED)
        return None

    def lane_closed(self, lane: str) -> bool:
        _, marker, workspace = lane.partition("/workspace:")
        return bool(marker) and workspace in self._paused

    def _changed(self, key: str) -> None:
        value = self._table.get(key)
        if value is not None and _is_paused(value):
            self._paused.add(key)
        else:
            self._paused.discard(key)


def _is_paused(value: bytes) -> bool:
    try:
        return msgspec.json.decode(value, type=Workspace).paused
    except msgspec.DecodeError:
        # The steps say what is wrong with the row; it pauses nothing.
        return False
