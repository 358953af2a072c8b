"""Searches for the largest batch that fits, by as few tries as possible."""

from collections.abc import Callable


def largest(tried: dict[int, tuple[bool, int]], fits: Callable[[int], tuple[bool, int]], *, limit: int) -> int:
    """Search for the largest number that fits, by trying.

    Memory is nearly a straight line over the batch size: a guess is where the line through two tries crosses what there
    is, or half or double the last number where there is no line yet. The search ends when the largest number that fits
    is within a sixteenth of the smallest that does not, or the limit is reached.

    Args:
        tried: number, from 1 on -> whether it fits, and how much is left, negative where some is missing. Has an entry
            or more; what is found is added.
        fits: tries a number and gives such an entry.
        limit: number of entries at which the search ends.

    Returns:
        The largest that was seen to fit; 0 if none.
    """
    while len(tried) < limit:
        low = max((n for n, (ok, _) in tried.items() if ok), default=0)
        high = min((n for n, (ok, _) in tried.items() if not ok), default=None)
        if high is not None and high - low <= max(1, low // 16):
            break
        guess = _guess(tried, low, high)
        tried[guess] = fits(guess)
    return max((n for n, (ok, _) in tried.items() if ok), default=0)


def _guess(tried: dict[int, tuple[bool, int]], low: int, high: int | None) -> int:
    """Choose the next number to try, above low and below high."""
    step = max(1, low // 16)
    ends = [low, high] if low and high else sorted(tried)[-2:] if low else sorted(tried)[:2]
    known = [(n, tried[n][1]) for n in ends]
    if len(known) < 2 or known[0][1] <= known[1][1]:
        return 2 * low if high is None else (low + high) // 2
    (n1, room1), (n2, room2) = known
    crossing = int(n1 + room1 * (n2 - n1) / (room1 - room2))
    if crossing < low + step:
        crossing = low + step  # to see that no more fits
    return min(crossing, 8 * low if high is None else high - 1)
