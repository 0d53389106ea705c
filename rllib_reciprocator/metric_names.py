"""Names of figures in results that both ways of sampling report."""

OUTCOMES, REWARD_PER_STEP = "outcomes", "reward_per_step"
