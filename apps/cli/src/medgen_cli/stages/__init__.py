"""The stages of an experiment: each a plain function of paths and settings."""
