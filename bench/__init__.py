"""The harness: data, randomness, checkpoints, worker processes, timing, metric, rows and report.

Files, data and randomness live here, so that a backend holds none of them. No module imports a framework: each backend
runs in a process of its own (`bench.workers.process`).
"""
