from backends.protocol import About

ABOUT = About(
    "My port",
    levels=("L0", "L1", "L5"),      # a sampler; leave the line out once network and training are there
    dtypes=("float64", "float32"),  # what create(spec) takes as spec.dtype; ("float32",) where the line is missing
    devices=("cpu",),
)
