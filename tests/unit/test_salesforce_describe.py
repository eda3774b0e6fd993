"""Facts about describe results and how long they are kept."""

from typing import Any

import anyio

from stages.salesforce.describe import Describes, Fetched, parse

LEAD: dict[str, Any] = {
    "name": "Lead", "createable": True, "updateable": True,
    "fields": [
        {"name": "Email", "type": "email", "length": 80, "createable": True, "updateable": True, "nillable": True, "filterable": True,
         "defaultedOnCreate": False, "unique": False, "externalId": False, "caseSensitive": False, "restrictedPicklist": False, "picklistValues": []},
        {"name": "Rating", "type": "picklist", "length": 255, "restrictedPicklist": True,
         "picklistValues": [{"active": True, "value": "Hot", "label": "Heiß"}, {"active": False, "value": "Old", "label": "Old"}]},
    ],
}  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Org:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.unchanged = False

    async def __call__(self, name: str, last_modified: str) -> Fetched:
        self.asked.append((name, last_modified))
        await anyio.lowlevel.checkpoint()
        return Fetched(None) if self.unchanged and last_modified else Fetched(LEAD, "Tue, 24 Nov 2026 10:00:00 GMT")


def test_a_describe_is_read_by_field_name_without_regard_to_case() -> None:
    describe = parse(LEAD)
    email = describe.field("EMAIL")
    assert email is not None
    assert (email.name, email.length, email.filterable) == ("Email", 80, True)
    rating = describe.field("rating")
    assert rating is not None
    assert rating.picklist_values == ("Hot",)
    assert describe.field("Segment__c") is None


async def test_a_describe_is_kept_and_then_asked_for_with_its_date() -> None:
    clock, org = Clock(), Org()
    describes = Describes(org, kept_seconds=100, clock=clock)
    first = await describes.get("Lead")
    clock.now = 99
    assert await describes.get("Lead") is first
    assert len(org.asked) == 1
    clock.now, org.unchanged = 101, True
    assert await describes.get("Lead") is first
    assert org.asked[1] == ("Lead", "Tue, 24 Nov 2026 10:00:00 GMT")
    clock.now = 200
    await describes.get("Lead")
    assert len(org.asked) == 2


async def test_those_who_ask_together_share_one_call() -> None:
    clock, org = Clock(), Org()
    describes = Describes(org, clock=clock)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(describes.get, "Lead")
    assert len(org.asked) == 1


async def test_fresh_asks_the_org() -> None:
    clock, org = Clock(), Org()
    describes = Describes(org, clock=clock)
    await describes.get("Lead")
    clock.now = 1
    await describes.get("Lead", fresh=True)
    assert len(org.asked) == 2
