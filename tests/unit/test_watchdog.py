"""When reading is taken for stalled, partition by partition: only where there was something to bring, and somebody to bring it."""

from pipeline.watchdog import Place, Sight, Watchdog

ONE, TWO, SWEEP = Place("live", 1), Place("live", 2), Place("sweep", 1)


def watched(*sights: dict[Place, Sight]) -> Watchdog:
    """One with a bound of 10 s, after these sights, 6 s apart."""
    watchdog = Watchdog(10.0, 0.0)
    for number, seen in enumerate(sights, 1):
        watchdog.answered(seen, number * 6.0)
    return watchdog


def test_a_partition_that_stands_still_is_named_though_others_move() -> None:
    watchdog = watched(*({ONE: Sight(5, 3), TWO: Sight(n, 3), SWEEP: Sight(n, 1)} for n in range(3)))
    assert watchdog.stalled() == {ONE: "live reading has brought nothing from partition 1 for 12 s, with 3 messages to read"}
    assert watchdog.trouble(18.0) == watchdog.stalled()[ONE]
    assert watchdog.moved == {TWO, SWEEP}
    assert not watchdog.is_stuck()


def test_after_twice_the_bound_only_a_start_anew_helps() -> None:
    assert not watched(*[{ONE: Sight(5, 3)}] * 4).is_stuck()
    assert watched(*[{ONE: Sight(5, 3)}] * 5).is_stuck()


def test_a_sweep_that_stands_still_is_told() -> None:
    watchdog = watched(*[{ONE: Sight(5, 0), SWEEP: Sight(7, 2)}] * 3)
    assert list(watchdog.stalled().values()) == ["the sweep has brought nothing from partition 1 for 12 s, with 2 lanes to serve"]


def test_a_table_and_commits_that_stand_still_are_told_and_why_where_that_is_known() -> None:
    table, commit = Place("table", 1, "rows"), Place("commit", 1)
    sights = {table: Sight(5, 2), commit: Sight(7, 3, reason="the coordinator is away")}
    assert list(watched(*[sights] * 3).stalled().values()) == [
        "reading the table rows has brought nothing from partition 1 for 12 s, with 2 records to read",
        "nothing of partition 1 was committed for 12 s, with 3 changes to commit: the coordinator is away",
    ]


def test_where_nothing_is_left_to_bring_nothing_stalls() -> None:
    assert watched(*[{ONE: Sight(5, 0)}] * 9).trouble(54.0) == ""
    assert watched(*[{ONE: Sight(5, 0)}] * 9, {ONE: Sight(5, 4)}).trouble(60.0) == "", "it came only now"


def test_time_in_which_reading_rests_does_not_count_and_does_not_excuse_either() -> None:
    still, resting = {ONE: Sight(5, 3)}, {ONE: Sight(5, 3, rests=True)}
    assert watched(*[resting] * 9).trouble(54.0) == ""
    assert watched(still, still, resting, resting, still).trouble(30.0) == ""
    assert "for 12 s" in watched(still, still, resting, resting, still, still).trouble(36.0)


def test_what_moves_again_or_is_held_no_more_is_forgotten() -> None:
    still = {ONE: Sight(5, 3)}
    assert watched(*[still] * 3, {ONE: Sight(6, 2)}).trouble(24.0) == ""
    assert watched(*[still] * 3, {}).trouble(24.0) == ""
    assert watched(*[still] * 3, {}, still).trouble(30.0) == ""


def test_a_log_that_does_not_answer_is_told_and_nobody_is_stuck_for_it() -> None:
    watchdog = watched(*[{ONE: Sight(5, 3)}] * 2)
    for second in range(18, 60, 6):
        watchdog.unanswered(float(second))
    assert watchdog.trouble(60.0) == "the log has not answered for 48 s"
    watchdog.unanswered(60.0, "nobody leads it")
    assert watchdog.trouble(60.0) == "the log has not answered for 48 s: nobody leads it"
    watchdog.answered({ONE: Sight(5, 3)}, 60.0)
    assert watchdog.trouble(60.0) == ""
    assert not watchdog.is_stuck()
