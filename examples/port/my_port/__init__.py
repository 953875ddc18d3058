from backends.protocol import About

ABOUT = About(
    "My port",
    levels=("L0", "L1", "L5"),  # a sampler without a network
    schedules=("linear", "cosine"),
    objectives=("eps",),
    variances=("small", "large"),
    samplers=("ddim", "ddpm"),
    conventions=("plain",),
    dtypes=("float32",),
    devices=("cpu",),
)
