"""Rows and minibatches of sampled rollouts, as update rules take them."""

from rllib_reciprocator.engine.learner import ITERATION
from rllib_reciprocator.engine.minibatches import minibatches as minibatch_selectors
from rllib_reciprocator.engine.update_rule import LEARN, Stage, UpdateInfo


def prepared_batch(algo, sample, iteration=0):
    """Returns a copy of a rollout with rewards, values and advantages, and the arguments of its update with rows."""
    learner = algo.learner_group._learner
    learner.before_gradient_based_update(timesteps={ITERATION: iteration})
    batch = sample.to(learner.device)
    info = UpdateInfo(phase=LEARN, iteration=iteration, timestep=0, generators=learner._generators)
    learner.prepare(batch, info)
    return batch, info


def prepared(algo, sample, iteration=0):
    """Returns the rows of each trained module, by column, at the given iteration."""
    _, info = prepared_batch(algo, sample, iteration)
    return info.rows


def minibatches(algo, rows, size, shuffle=True):
    """Yields the minibatches of one epoch."""
    learner = algo.learner_group._learner
    num_agents = {module_id: len(learner.context.agents_of(module_id)) for module_id in rows}
    info = UpdateInfo(phase=LEARN, iteration=0, timestep=0, minibatch_size=size, shuffle=shuffle)
    for selectors in minibatch_selectors(rows, num_agents, info, learner._generators[Stage.POLICIES]):
        yield {module_id: select(rows[module_id]) for module_id, select in selectors.items()}
