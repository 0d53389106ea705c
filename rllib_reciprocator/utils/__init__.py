"""What every layer uses: settings, checkpoints, tensors, distributed statistics, private names of Ray."""
