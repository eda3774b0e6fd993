"""How long to wait before the next try. Pure: attempt and random number in, seconds out."""


def backoff_seconds(attempt: int, random: float, *, first_seconds: float = 1.0, longest_seconds: float = 60.0) -> float:
    """Doubles from `first_seconds` to `longest_seconds`; `random` in [0, 1) takes away up to half (equal jitter). `attempt` counts from 1."""
    whole = min(longest_seconds, first_seconds * 2.0 ** min(attempt - 1, 30))
    return whole * (0.5 + random / 2)
