"""The MindSpore backend. `backend.create(spec)` builds it."""

from backends.facts import About

ABOUT = About(
    "MindSpore", 'pip install -e ".[mindspore]"', "mindspore", ("mindspore",), order=1,
    reduced=("float16",), launcher="msrun", roofline=True,
    weight_files=(b"\n",))  # protobuf: the tag of the first field
