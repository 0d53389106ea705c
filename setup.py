"""Finds the packages, which are in two folders. All other metadata is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["rllib_reciprocator", "rllib_reciprocator.*"]),
        *find_packages("envs"),
        "rllib_reciprocator.tuned_examples",  # the folder tuned_examples
    ]
)
