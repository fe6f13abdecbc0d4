"""Imitation: policies that learn from demonstrations what to do."""
