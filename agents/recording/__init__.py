"""Records episodes of policies into clip stores."""
