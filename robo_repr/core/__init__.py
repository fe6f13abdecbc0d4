"""Configuration, run folders, checkpoints, metrics and seeds: the bottom layer, without torch at import."""
