"""Errors that a caller may want to catch."""


class MissingModelError(FileNotFoundError):
    """A model's weights are not on this machine; the message says where they may come from."""


class UnusableModelError(ValueError):
    """Weights are there and cannot be used: pickled, or of another family; the message says what to do."""
