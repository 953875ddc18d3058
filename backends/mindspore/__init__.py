"""The MindSpore backend; `backend.create(spec)` makes one."""
