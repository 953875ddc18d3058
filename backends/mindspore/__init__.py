"""The MindSpore backend. `backend.create(spec)` builds it."""

from backends.facts import About

ABOUT = About(
    "MindSpore", 'pip install -e ".[mindspore]"  # Python 3.11 or 3.12: MindSpore 2.8.0 has no wheel for 3.13', "mindspore",
    ("mindspore",), order=1,
    reduced=("float16",), launcher="msrun", solvers=True, likelihood=True, roofline=True,
    weight_files=(b"\n",))  # protobuf: the tag of the first field
