"""Rule 14 where the login is refused: in a file of its own, since its probes are a minute apart and other tests can run beside it."""

import pytest

from tests.flow import trouble
from tests.flow.conftest import Open
from tests.flow.place import Place


@pytest.mark.timeout(300)
async def test_rule_14_and_f23_a_revoked_token_is_not_noticed_by_others_and_mends_by_itself(place: Place, opened: Open) -> None:
    """A hundred events wait for one cause. A refused login is tried again each minute, so as not to lock the user out."""
    await trouble.catches_up(place, await opened(), "token revoked")
