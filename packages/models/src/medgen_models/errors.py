"""Errors that a caller may want to catch."""


class MissingModelError(FileNotFoundError):
    """A model's weights are not on this machine; the message says where they may come from."""
