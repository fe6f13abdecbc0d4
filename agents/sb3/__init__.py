"""Agents of stable-baselines3, untouched, on the cached features of a frozen encoder."""

from agents.sb3.ppo import PPO
from agents.sb3.sac import SAC

__all__ = ["PPO", "SAC"]
