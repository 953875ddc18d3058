"""The float64 NumPy oracle: schedules, samplers, losses, optimiser and UNet, written to be read beside the papers.

Nothing here imports a deep-learning framework.
"""
