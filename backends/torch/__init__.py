"""The PyTorch backend. `backend.create(spec)` builds it."""
