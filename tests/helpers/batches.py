"""What learners make of samples, for tests."""

from rllib_reciprocator.engine.learner import ITERATION


def prepared(algo, sample, iteration=0):
    """The columns of each learning module as its loss takes them, at an iteration."""
    learner = algo.learner_group._learner
    learner.before_gradient_based_update(timesteps={ITERATION: iteration})
    parts = learner.on_device(sample.to_batch())
    return learner.prepare(parts, learner.joint_columns(parts))


def minibatches(algo, batches, size, shuffle=True):
    """The minibatches of one epoch."""
    learner = algo.learner_group._learner
    for takes in learner._minibatch_indices(batches, 1, size, shuffle):
        yield {module_id: take(batches[module_id]) for module_id, take in takes.items()}
