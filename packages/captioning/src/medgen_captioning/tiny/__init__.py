"""Miniatures: models with random weights in the real folder formats, and a small server, all offline."""
