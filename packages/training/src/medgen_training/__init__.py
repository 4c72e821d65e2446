"""Trainers of medical text-to-image generators: caches, losses, checkpoints, resumable loops."""
