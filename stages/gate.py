"""Which lanes the settings keep closed: workspaces paused by hand. Follows the table `workspaces`; asked for every message."""

from pipeline.lanes import workspace_lane
from pipeline.messages import Message
from pipeline.stage import Closed
from pipeline.tables import Table, readable
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
        # The steps say what is wrong with a row that can't be read; it pauses nothing.
        workspace = readable(self._table.name, key, self._table.get(key), Workspace)
        if workspace is not None and workspace.paused:
            self._paused.add(key)
        else:
            self._paused.discard(key)
