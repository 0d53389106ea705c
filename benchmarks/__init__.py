"""What is fast and what is learned, measured against named peers in one run."""
