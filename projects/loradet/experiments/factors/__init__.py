"""Studies of factors: designs, their effects, and the run to make next."""
