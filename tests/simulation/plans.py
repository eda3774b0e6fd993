"""Draws plans from seeds: who sends what, which lanes fail when."""

import random

from pipeline.lanes import key_lane, org_lane, session_lane, workspace_lane
from tests.simulation.world import Letter, Plan, Window

ORGS = [f"o{number}" for number in range(12)]
PEOPLE = [f"p{number}@example.com" for number in range(100)]


def letters(draw: random.Random, count: int, seconds: float, *, bursts: bool, people: int) -> list[Letter]:
    """Registrations and session messages over `seconds`; with `bursts` a tenth of the orgs sends half of all within one second."""
    drawn: list[Letter] = []
    for _ in range(count):
        org = draw.choice(ORGS)
        at = draw.uniform(0, seconds)
        if bursts and draw.random() < 0.5:
            org, at = ORGS[0], seconds / 3 + draw.random()
        workspace = draw.choice(["w0", "w1"])
        session = f"{workspace}s{draw.randrange(3)}"
        if draw.random() < 0.06:
            drawn.append(Letter(at, "", org, workspace, session, f"session:{org}{session}", urgent=True))
        else:
            drawn.append(Letter(at, "", org, workspace, session, draw.choice(PEOPLE[:people])))
    # The session's row comes at last, whoever waits for it.
    drawn += [
        Letter(seconds, "", org, workspace, f"{workspace}s{number}", f"session:{org}{workspace}s{number}", urgent=True)
        for org in ORGS
        for workspace in ("w0", "w1")
        for number in range(3)
    ]
    drawn.sort(key=lambda letter: letter.at)
    return [
        Letter(each.at, str(number), each.org, each.workspace, each.session, each.key, each.urgent) for number, each in enumerate(drawn, 1)
    ]


def troubled(seed: int, *, count: int = 900, seconds: float = 40.0, bursts: bool = True, people: int = 25) -> Plan:
    """Lanes of each width fail for a while, orgs are slow, messages stumble or are poison, rows are waited for."""
    draw = random.Random(f"{seed} plan")
    plan = Plan(seed, draw.choice([1, 2, 4, 6]), letters(draw, count, seconds, bursts=bursts, people=people))
    names = [(letter, order) for letter in plan.letters for order in range(4)]
    for letter, width in draw.sample(names, 40):
        lane = (
            org_lane(letter.org),
            workspace_lane(letter.org, letter.workspace),
            session_lane(letter.org, letter.workspace, letter.session),
            key_lane(session_lane(letter.org, letter.workspace, letter.session), letter.key),
        )[width]
        begins = draw.uniform(0, seconds)
        plan.blocked.setdefault(lane, []).append(Window(begins, begins + draw.choice([0.5, 5, 20, 60])))
    plan.slow = {org: Window(draw.uniform(0, 20), draw.uniform(20, 60), draw.uniform(2, 9)) for org in draw.sample(ORGS, 2)}
    ids = [letter.id for letter in plan.letters if not letter.urgent]
    plan.stumbles = {id_: draw.choice([1, 1, 2, 3, 99]) for id_ in draw.sample(ids, len(ids) // 15)}
    plan.poison = frozenset(draw.sample(ids, 4))
    plan.needs_row = frozenset(f"{letter.org}|{letter.session}" for letter in draw.sample(plan.letters, 12))
    return plan


HEALTHY = tuple(f"healthy{number}" for number in range(20))
CALL_SECONDS = 0.2


def steady(seed: int, *, beside: str) -> Plan:
    """Healthy orgs that send all the time, each call taking as long; beside them nothing, orgs that are down, hang, or send a crowd at once."""
    draw = random.Random(f"{seed} healthy")
    drawn = [Letter(draw.uniform(0, 60), "", draw.choice(HEALTHY), "w0", "w0s0", f"p{draw.randrange(500)}@example.com") for _ in range(800)]
    other = random.Random(f"{seed} beside")
    blocked: dict[str, list[Window]] = {}
    slow: dict[str, Window] = {}
    if beside in ("down", "hanging", "all"):
        troubled_orgs = [f"troubled{number}" for number in range(5)]
        drawn += [
            Letter(other.uniform(0, 60), "", other.choice(troubled_orgs), "w0", "w0s0", f"p{other.randrange(500)}@example.com")
            for _ in range(300)
        ]
        if beside != "hanging":
            blocked = {org_lane(org): [Window(0, 50)] for org in troubled_orgs[:3]}
        if beside != "down":
            slow = {org: Window(0, 50, 25.0) for org in troubled_orgs[3:]}
    if beside in ("crowd", "all"):
        drawn += [Letter(10 + other.random(), "", "crowd", "w0", "w0s0", f"p{number}@example.com") for number in range(1_500)]
    drawn.sort(key=lambda letter: letter.at)
    numbered = [Letter(each.at, str(number), each.org, each.workspace, each.session, each.key) for number, each in enumerate(drawn, 1)]
    return Plan(seed, 4, numbered, blocked=blocked, slow=slow, call_seconds=(CALL_SECONDS, CALL_SECONDS), jitter_seconds=0.0)
