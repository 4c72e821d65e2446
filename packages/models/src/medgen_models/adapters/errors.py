"""Errors of adapters that a caller may want to catch."""


class AdapterError(ValueError):
    """An adapter does not fit its settings, its model or its folder; the message says what to change."""
