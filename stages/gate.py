"""Which lanes the settings keep closed: workspaces paused by hand. Follows the table `workspaces`; asked for every message."""

from pipeline.lanes import workspace_lane
from pipeline.messages import Message
from pipeline.stage import Closed
from pipeline.tables import Table, readable
from schemas.messages import Cause
from schemas.settings import Workspace


def _paused(workspace: str) -> Cause:
    return Cause(
        code="paused", message="The workspace was paused by hand.", hint=f"`turnout workspace resume {workspace}` lets it go on, in order."
    )


class PausedWorkspaces:
    """Implements `pipeline.stage.Gate`."""

    def __init__(self, workspaces: Table) -> None:
        self._table = workspaces
        self._paused: dict[str, Cause] = {}
        for key in dict(workspaces.items()):
            self._changed(key)
        workspaces.subscribe(self._changed)

    def closed(self, message: Message) -> Closed | None:
        paused = self._paused.get(message.workspace)
        if paused is None or message.kind == "company":
            return None
        return Closed(workspace_lane(message.org, message.workspace), "paused", paused)

    def lane_closed(self, lane: str) -> bool:
        _, marker, workspace = lane.partition("/workspace:")
        return bool(marker) and workspace in self._paused

    def _changed(self, key: str) -> None:
        # The steps say what is wrong with a row that can't be read; it pauses nothing.
        workspace = readable(self._table.name, key, self._table.get(key), Workspace)
        if workspace is not None and workspace.paused:
            self._paused[key] = _paused(key)
        else:
            self._paused.pop(key, None)
