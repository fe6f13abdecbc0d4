"""Networks that imitate, each with the recipe that trains it."""
