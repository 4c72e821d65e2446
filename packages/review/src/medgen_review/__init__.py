"""Blind expert review of synthetic medical images in the browser, and what the ratings mean."""
