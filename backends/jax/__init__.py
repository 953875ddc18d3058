"""The JAX backend. `backend.create(spec)` builds it."""

from backends.facts import About

ABOUT = About(
    "JAX", 'pip install -e ".[jax]"', "jax", ("jax", "jaxlib"), order=2,
    dtypes=("float32", "bfloat16", "float16", "float64"),
    reduced=("bfloat16",),
    solvers=True, likelihood=True, roofline=True, launcher="ddim-bench launch",
    slow_to_compile=("cpu", "cuda", "tpu"),  # seconds for the smallest network, minutes for hundreds of them
    thread_variables=("NPROC",))  # XLA asks it in place of the machine's cores
