"""Names of classes: which of them are the same, and how two differ that look alike."""

import unicodedata
from collections.abc import Iterable, Sequence


def key_of(name: str) -> str:
    r"""Return what two names have in common if they are the same: the composed form (NFC) of their characters.

    A Mac writes the letter é of a folder's name as two characters, other systems as one.

    Example:
        >>> key_of("cafe\u0301") == key_of("caf\u00e9")
        True
    """
    return unicodedata.normalize("NFC", name)


def same(some: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether two lists have the same names in the same order."""
    return [*map(key_of, some)] == [*map(key_of, others)]


def written(name: str, others: Iterable[str]) -> str:
    r"""Say which of other names looks like this one, and how each is written; empty if none does.

    Names look alike if they differ in capital letters, spaces, or characters that are not seen.

    Example:
        >>> written("Cat\u200b", ["dog", "cat"])
        "; 'Cat\\u200b' looks like 'cat' but is written differently"
    """
    for other in others:
        if key_of(other) != key_of(name) and _looks(other).casefold() == _looks(name).casefold():
            return f"; {name!a} looks like {other!a} but is written differently"
    return ""


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    r"""Find two names that a reader cannot tell apart; None if there are none.

    Example:
        >>> twins(["A", "a", "caf\u00e9", "cafe\u0301"]) == ("caf\u00e9", "cafe\u0301")
        True
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_looks(name), name)
        if other is not name:
            return other, name
    return None


def _looks(name: str) -> str:
    """Return a name's composed form without characters that are not seen, and with single spaces between words."""
    visible = "".join(x for x in name if x.isspace() or unicodedata.category(x) != "Cf")
    return key_of(" ".join(visible.split()))
