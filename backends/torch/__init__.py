"""The PyTorch backend. `backend.create(spec)` builds it."""

from backends.facts import About

ABOUT = About(
    "PyTorch", 'pip install -e ".[torch]"', "torch", ("torch", "torchvision"), order=0,
    dtypes=("float32", "bfloat16", "float16", "float64"),
    reduced=("bfloat16",),  # the faster one on CPUs and GPUs
    modes=("stock", "tuned", "compiled", "exported"),
    compiled_apart=("cpu",), slow_to_compile=("cuda",),  # elsewhere "tuned" compiles, too
    launcher="torchrun", solvers=True, likelihood=True, roofline=True,
    weight_files=(b"PK", b"\x80"))  # a zip file, or the pickles of PyTorch before 1.6
