"""Learner batches that are built from sampled rollouts."""

from rllib_reciprocator.engine.learner import ITERATION


def prepared(algo, sample, iteration=0):
    """Returns the train batch of each trained module, by column, at the given iteration."""
    learner = algo.learner_group._learner
    learner.before_gradient_based_update(timesteps={ITERATION: iteration})
    columns = learner.on_device(sample.to_batch())
    return learner.prepare(columns, learner.joint_columns(columns))


def minibatches(algo, batches, size, shuffle=True):
    """Yields the minibatches of one epoch."""
    learner = algo.learner_group._learner
    for selectors in learner._minibatch_indices(batches, 1, size, shuffle):
        yield {module_id: select(batches[module_id]) for module_id, select in selectors.items()}
