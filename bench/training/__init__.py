"""From data to weights. What is said here can be asked without NumPy."""

MOST_STEPS = 10**9  # of a training, whose losses take 8 GB
