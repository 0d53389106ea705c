"""Access to and comparison of learner weights."""

import numpy as np


def weights(algo):
    """Returns the weights as arrays, by ``module/parameter``."""
    return {
        f"{module_id}/{name}": value
        for module_id, module in algo.learner_group.get_weights().items()
        for name, value in module.items()
    }


def assert_same_weights(a, b, atol=0.0, rtol=0.0):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=atol, rtol=rtol, err_msg=name)
