"""The fields of a row's `values`, by kind: a type, a unit and a meaning each. `results/ROWS.md` is written from them.

`python -m tests.helpers.pages` rewrites that page; a test holds it and every committed row to this module. A field that is
`NotRequired` is absent from older rows, or where its meaning says so.
"""

import re
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_origin

from bench.records.study_values import Interpolation, Likelihood, Neighbours, Noise, Pooled, RoundTrip, SameNoise


class Train(TypedDict):
    """One training of the main job: the short one by which backends are compared, or that of the network sampled from."""

    losses: Annotated[list[float], "loss of every optimiser step"]
    seconds: Annotated[float, "s: all steps but each process's first, data included, saving of states excluded"]
    first_seconds: Annotated[float, "s: the last process's first step, which compiles"]
    starts: NotRequired[Annotated[int, "processes that took part, one more for each interruption"]]
    skipped: NotRequired[Annotated[int, "steps that the loss scaler left out, in float16"]]
    weights: NotRequired[Annotated[str, "hash of the weights after training"]]
    ema: NotRequired[Annotated[str, "hash of their moving average"]]
    loss_before: NotRequired[Annotated[float, "loss of the training's first images before it"]]
    loss_after: NotRequired[Annotated[float, "loss of the same images, timesteps and noise after it"]]


class Sample(TypedDict):
    """One set of images."""

    images: Annotated[int, "number of images n"]
    batch_seconds: Annotated[list[float], "s: from x_T on the device to images on the host, one value a part"]
    first_seconds: Annotated[float, "s: a short path before the first part, which compiles"]
    calls: Annotated[int, "calls of the network on a batch"]
    calls_per_image: NotRequired[Annotated[int, "of a fast solver: calls of the network for one image"]]
    notes: NotRequired[Annotated[list[str], "what happened on the way, such as a batch that memory could not hold"]]


class Distances(TypedDict):
    """Distances of one set of images to the reference."""

    n: Annotated[int, "number of images"]
    fid: Annotated[float, "Frechet distance of the features, biased in n"]
    fid_sd: NotRequired[Annotated[float, "standard deviation of fid over sets of n images, by the infinitesimal jackknife"]]
    fid_half: Annotated[float | None, "the same of n/2 images, the mean of both halves; null: they are too few"]
    fid_inf: Annotated[float | None, "extrapolation of the two to infinitely many images"]
    kid: Annotated[float, "kernel distance, the mean over subsets"]
    kid_subset_size: Annotated[int, "images of a subset"]
    kid_subset_std: Annotated[float, "standard deviation over subsets"]
    precision: NotRequired[Annotated[float, "share of the images that lie in the reference's manifold, 0 to 1"]]
    recall: NotRequired[Annotated[float, "share of the reference that lies in the images' manifold, 0 to 1"]]
    prc_size: NotRequired[Annotated[int, "images of each side in precision and recall"]]
    seed: Annotated[int, "of the subsets"]
    reference_n: NotRequired[Annotated[int, "images that the Frechet distance compares with"]]
    notes: NotRequired[Annotated[list[str], "how images were converted for the extractor"]]


class Metric(Distances):
    """Distances of one set of images to the reference; backends `real` and `noise` are floor and ceiling."""

    metric: Annotated[str, "name of the distance, such as FID[fmnist-cnn]"]
    extractor: Annotated[str, "network of the features"]
    extractor_sha256: Annotated[str, "hash of its weights: values of two hashes do not compare"]
    reference: Annotated[str, "what the Frechet distance compares with"]
    kid_reference: Annotated[str, "what the kernel distance compares with"]


class Verdict(TypedDict):
    """One comparison of a row of kind `check`, whose `values` hold one under each name of what was compared."""

    error: Annotated[float | None, "largest error, as the name of the comparison says; null: it is not finite"]
    tolerance: Annotated[float | None, "largest that is accepted; null: reported without a verdict"]
    ok: Annotated[bool, "whether the error is finite and within the tolerance, or `float64` or `rounding` says so"]
    quantiles: NotRequired[Annotated[dict[str, float], "of the pixels' differences, for images"]]
    float64: NotRequired[Annotated[float, "largest error of the same images, drawn in float64: `ok` where within 1e-8"]]
    rounding: NotRequired[Annotated[dict[str, float], "by backend, how far its images are from those in float64 of the one that "
                                    "has it: `ok` where the other's is at most six times that one's"]]
    bit_equal: NotRequired[Annotated[bool, "whether a second run gave the same bits"]]


Checks = dict[str, Verdict]  # the values of a row of kind check


class Timing(TypedDict):
    """Blocks of one kind of work, taken in turn with those of the other contenders."""

    block_seconds: Annotated[list[float], "s: of each block"]
    units_per_block: Annotated[int, "units of work in a block: seconds of one unit are their quotient"]
    warmup_seconds: Annotated[list[float], "s: of each block of the warm-up"]
    first_seconds: Annotated[float, "s: of the first unit, which compiles"]
    steady: Annotated[bool, "false: the warm-up ended by its time limit"]
    late: NotRequired[Annotated[float, "share of a block's work that was left when the backend said that it was done, 0 to 1: the "
                                       "median of all blocks"]]
    parameters: NotRequired[Annotated[int, "of the network"]]
    flops_per_image: NotRequired[Annotated[int, "FLOP: of one forward pass"]]
    flops: NotRequired[Annotated[int, "FLOP: of one run of a roof's kernel"]]
    peak_rss_bytes: NotRequired[Annotated[int, "bytes: peak resident size of the contender's process"]]
    idle_rss_bytes: NotRequired[Annotated[int, "bytes: the same before the work"]]
    device: NotRequired[Annotated[dict[str, str], "what the backend says of its device, execution, layout and threads"]]
    began: NotRequired[Annotated[str, "UTC: when the race began"]]
    load_before: NotRequired[Annotated[list[float], "load averages then"]]


class Curve(TypedDict):
    """One training of a recipe."""

    losses: Annotated[list[float], "loss of every optimiser step"]
    seconds: Annotated[float, "s: of the steps"]
    skipped: NotRequired[Annotated[int, "steps that the loss scaler left out, in float16"]]


class Drawn(TypedDict):
    """One set of a recipe's samples."""

    n: Annotated[int, "number of images"]
    metric: Annotated[Metric | None, "distances to the reference; null: they are too few"]


class Recipe(TypedDict):
    """One experiment of `bench.recipes`; a recipe may add fields of its own."""

    command: Annotated[str, "what was run"]
    pictures: Annotated[list[tuple[str, str]], "file in the gallery's folder, caption"]
    notes: Annotated[list[str], "where the run falls short of the recipe"]
    training: NotRequired[Annotated[dict[str, Curve], "losses, seconds and skipped steps of each training"]]
    samples: NotRequired[Annotated[Drawn, "number of the samples and their metric"]]
    variance: NotRequired[Annotated[dict[str, Drawn], "the same of each choice of the reverse process's variance"]]
    round_trip_error: NotRequired[Annotated[dict[str, list[float]], "by S: of encoding and decoding, each image's error"]]


class Predicted(TypedDict):
    """What one cell was predicted to cost."""

    backend: str
    stage: str
    cell: str
    seconds: float | None
    memory: int | None


class Budget(TypedDict):
    """What a table was predicted to cost before its first cell was drawn."""

    calls: Annotated[dict[str, dict[str, int]], "network calls for one image of every cell, by backend and sample seed"]
    cells: Annotated[list[Predicted], "backend, stage, cell, seconds (s) and memory (bytes) of every cell"]


class Ablation(Distances):
    """One training of `ddim-bench study ablation`: the distances of its samples, and its losses."""

    metric: NotRequired[Annotated[str, "name of the distance; older rows have it in `config`"]]
    extractor: NotRequired[Annotated[str, "network of the features"]]
    extractor_sha256: NotRequired[Annotated[str, "hash of its weights"]]
    reference: NotRequired[Annotated[str, "what the Frechet distance compares with"]]
    kid_reference: NotRequired[Annotated[str, "what the kernel distance compares with"]]
    losses_mean_of_last: Annotated[float, "mean loss of the last steps"]
    last: Annotated[int, "their number"]
    train_seconds: Annotated[float, "s: of the training"]
    starts: Annotated[int, "processes that took part"]


class Tries(TypedDict):
    """Variants of one step, timed in turn (`python -m tests.benchmarks.tries`)."""

    variants: Annotated[dict[str, Timing], "as of kind timing, by the variant's name"]


KINDS: dict[str, type] = {"train": Train, "sample": Sample, "metric": Metric, "check": Verdict, "timing": Timing, "recipe": Recipe,
                          "budget": Budget, "likelihood": Likelihood}
STUDIES: dict[str, type] = {"ablation": Ablation, "noise": Noise, "neighbours": Neighbours, "tries": Tries,
                           "pooled": Pooled, "round trip": RoundTrip, "same noise": SameNoise,
                           "interpolation": Interpolation}  # of kind study
OPEN = ("recipe",)  # have fields of their own too
KERNELS = ("gemm", "convolution")  # workloads of kind timing that a roof is measured by
_SIZED = ("parameters", "peak_rss_bytes", "device")
# What the pages read of the fields that not every timing has, by its stage, and by "roof".
NEEDED: dict[str, tuple[str, ...]] = {"timing": _SIZED, "scaling": (*_SIZED, "flops_per_image"), "roof": ("flops",),
                                      "speed": (*_SIZED, "flops_per_image", "began", "load_before")}
# What the pages read of a row's `config`, by kind, and by the stage of a timing and the name of a study.
_LATENT = {"name": str, "weights": str, "steps": int, "samples": int, "seed": int, "dtype": str, "device": str}
_FELT = {**_LATENT, "extractor": str, "extractor_sha256": str}
_DRAWN = {"steps": int, "eta": str, "samples": int, "seed": int, "batch_size": int, "device": str}
AXES = Literal["batch", "steps", "size", "width", "threads"]  # that scaling goes along
MAYBE: dict[str, Any] = {"stage": str, "device": str, "steps": int | None, "eta": str, "spacing": str | None, "reference": str,
                         "held_out": str, "processes": int, "dtype": str, "seed": int,
                         "sampler": str}  # of any kind, where it is there
CONFIG: dict[str, dict[str, Any]] = {
    "train": {"train_steps": int, "batch_size": int, "seed": int, "device": str}, "sample": _DRAWN,
    "metric": {"samples": int, "seed": int},
    "timing": {"workload": str, "batch_size": int, "dtype": str, "device": str, "threads": int},
    "timing speed": {"contender": str, "mode": str, "variables": dict[str, str]}, "timing scaling": {"axis": AXES, "value": int},
    "budget": {"samples": int, "weights": str, "model": dict[str, Any], "diffusion": dict[str, Any], "device": str},
    "likelihood": {"name": str, "weights": str, "steps": int, "samples": int, "seed": int, "dtype": str, "device": str,
                   "clip": bool, "diffusion": dict[str, Any], "images": str, "images_sha256": str},
    "study noise": {"name": str, "samples": int, "seed": int, "extractor": str, "extractor_sha256": str, "images": str,
                    "images_sha256": str},
    "study neighbours": {"name": str},
    "study round trip": {**_LATENT, "images": str, "images_sha256": str}, "study same noise": _FELT,
    "study interpolation": _FELT,
    "study pooled": {"table": str, "steps": int, "seeds": list[int], "device": str, "weights": str},
    "study ablation": {"variant": str, "optim": dict[str, Any], "batch_size": int, "samples": int, "sampling_steps": int,
                       "extractor": str, "extractor_sha256": str, "reference": str, "dataset": str, "dtype": str},
}


def kind_of(record: object) -> tuple[str, str | None]:
    """The kind of the rows whose values are of such a record, and the study that they belong to."""
    places: dict[object, tuple[str, str | None]] = {known: ("study", study) for study, known in STUDIES.items()}
    places |= {Checks if kind == "check" else known: (kind, None) for kind, known in KINDS.items()}
    return places[record]


def shown(hint: Any) -> str:
    """A type as people read it."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"bench\.records\.\w+\.", "", str(hint))
