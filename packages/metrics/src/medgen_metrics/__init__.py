"""Scores of generated images: Frechet distance, KID, precision and recall, each with an interval."""
