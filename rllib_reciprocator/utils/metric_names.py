"""Names of figures in results that both ways of sampling report."""

OUTCOMES, REWARD_PER_STEP = "outcomes", "reward_per_step"
# What agents get and do in the inner episodes of a meta-episode, by agent, figure and number.
INNER_EPISODES = "inner_episodes"
# What agents give each other, by ordered pair, and by pair and what the recipient did.
INCENTIVES, INCENTIVES_BY_ACTION = "incentives", "incentives_by_action"
# Env runners of an iteration whose sample was left out because it took longer than ``sample_timeout_s``.
NUM_TIMED_OUT = "num_env_runners_timed_out"
