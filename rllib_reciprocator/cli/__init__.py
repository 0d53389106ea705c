"""The ``rllib`` command."""
