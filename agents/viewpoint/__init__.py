"""How far cameras can move before a policy fails."""
