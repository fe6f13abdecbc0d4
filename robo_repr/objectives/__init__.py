"""Objectives: a batch to a dict of losses. One file per method."""
