"""What goes wrong with data: one error for the whole, one row for a bad image among many."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class DataError(ValueError):
    """Data cannot be used as it is: the message says what, where, and what to do."""


class Problem(BaseModel):
    """One image or row that was left out, and why; a row of `problems.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    row: int | None = None
    field: str | None = None
    code: str
    detail: str

    def __str__(self) -> str:
        """Return the problem as one line: file, row and field, then the reason."""
        place = self.file
        if self.row is not None:
            place += f", row {self.row}"
        if self.field is not None:
            place += f", field {self.field}"
        return f"{place}: {self.detail} [{self.code}]"


def list_briefly(items: Sequence[object], *, most: int = 5) -> str:
    """Join the first few items for an error message and count the rest.

    >>> list_briefly(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    shown = "; ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}; and {len(items) - most} more"
