"""Find the names of one vocabulary in a text: one pattern for all of them."""

import re
from collections.abc import Mapping


class Names:
    """The patterns of many names as one: a search per vocabulary instead of one per name.

    Args:
        patterns: Pattern by name, without capturing groups; where two begin at one place, the first wins.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._names = tuple(patterns)
        joined = "|".join(f"({pattern})" for pattern in patterns.values())
        self._pattern = re.compile(rf"(?<!\w)(?:{joined})(?!\w)")

    def search(self, text: str, position: int = 0) -> tuple[str, int, int] | None:
        """Return the first name at or after a position, its start and its end; None if there is none."""
        match = self._pattern.search(text, position)
        return (self._names[(match.lastindex or 1) - 1], match.start(), match.end()) if match else None

    def all_in(self, text: str) -> list[str]:
        """Return the names in a text, in order."""
        found, position = [], 0
        while (hit := self.search(text, position)) is not None:
            found.append(hit[0])
            position = hit[2]
        return found
