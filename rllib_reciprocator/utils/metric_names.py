"""Names of metrics that are reported both on the batched engine and on RLlib's env runners."""

OUTCOMES, REWARD_PER_STEP = "outcomes", "reward_per_step"
# Rewards and outcomes in the inner episodes of a meta-episode, by agent, metric and index of the inner episode.
INNER_EPISODES = "inner_episodes"
# Incentives between agents, by ordered pair, and by ordered pair and action of the recipient.
INCENTIVES, INCENTIVES_BY_ACTION = "incentives", "incentives_by_action"
# Number of env runners per iteration whose sample was dropped because it took longer than ``sample_timeout_s``.
NUM_TIMED_OUT = "num_env_runners_timed_out"
