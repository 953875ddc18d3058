"""What the commands have in common: the parser, the options that several of them share.

Nothing here takes time to load: `--help` needs neither NumPy nor a framework.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import backends
from bench.cli.values import device, place_to_read, real, whole
from bench.paths import RESULTS, printable
from bench.training import MOST_STEPS
from reference.errors import ConfigError, require

if TYPE_CHECKING:
    from bench.data.datasets import Choice
    from bench.weights.unsaid import Unsaid

WEIGHTS = "a diffusers folder, a checkpoint of the DDIM code, improved- or guided-diffusion, or a name on the Hugging Face hub"
NAMED = "`ddim-bench run --list` names them"
MOVED = {"--batch-size": "--sample-batch", "--sampling-steps": "--steps", "--steps": "--train-steps",
         "--sample-size": "--image-size"}  # what was meant, most likely
# What numbers can't reach, and how that is said. A seed has 64 bits.
MOST: dict[str, tuple[float, str]] = {
    "seed": (2**64, " and below 2^64"), "threads": (2**14, " and below 2^14"),
    **dict.fromkeys(("train_steps", "fit", "epochs", "steps"), (MOST_STEPS + 1, f" and at most {MOST_STEPS:,}"))}


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the example, and adds its default to each option whose text names none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        known = action.default is not None and action.default is not False and action.default not in ([], argparse.SUPPRESS)
        return f"{text}; default: %(default)s" if known and "default" not in text else text


class Parser(argparse.ArgumentParser):
    """Takes options in full only, and ends with one line and exit code 2 where something does not fit."""

    def __init__(self, *, text: str | None = None, example: str = "", **more: Any) -> None:
        """`text` is the description, a docstring."""
        super().__init__(description=inspect.cleandoc(text or "").replace("`", ""), epilog=example and f"example: {example}",
                         formatter_class=Help, allow_abbrev=False, **more)
        for kind, read in ((int, whole), (float, real)):  # argparse's own line does not say the rule
            self.register("type", kind, read)
        self.commands: dict[str, Parser] = {}
        self._kinds: Any = None

    def command(self, name: str, text: str | None, example: str, parents: tuple[Parser, ...] = (), **defaults: Any) -> Parser:
        """A sub-command; `defaults` are further attributes of the parsed arguments."""
        self._kinds = self._kinds or self.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
        p: Parser = self._kinds.add_parser(name, help=(text or "").splitlines()[0], text=text, example=example, parents=parents)
        p.set_defaults(**defaults)
        self.commands[name] = p
        return p

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message.removeprefix('argument '))}\n")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """`parse_args`, after a look for what argparse would report at length or not at all. Raises SystemExit.

        Of `launch`, `job` is the command after --, whose own mistakes end this one.
        """
        own = words[:words.index("--")] if words[:1] == ["launch"] and "--" in words else words
        self._check(own, self)
        args = self.parse_args(own)
        args.job = words[len(own) + 1:]
        if args.job and not args.job[0].endswith(".py"):
            self.parse(args.job)
        return args

    def having(self, option: str) -> list[str]:
        """The commands that have this option, of this one and those below it."""
        return [self.prog] * (option in self._option_string_actions) + [c for p in self.commands.values() for c in p.having(option)]

    def _check(self, words: list[str], whole: Parser) -> None:
        first = words[0] if words else ""
        if first in self.commands:
            return self.commands[first]._check(words[1:], whole)
        if self.commands and not first.startswith("-"):
            near = difflib.get_close_matches(first, self.commands, 1)
            self.error(f"{self.prog}: {repr(first) + ' is no command' if words else 'a command is missing'}; "
                       + (f"did you mean {near[0]}?" if near else f"choose from {', '.join(self.commands)}"))
        before = ""
        for word in words:
            name, given, value = word.partition("=")
            if word == "" or (name.startswith("--") and given and not value):
                self.error(f"{name or before}='': must not be empty")
            if word.encode(errors="replace").decode() != word:
                self.error(f"{before or name}: {word!r}: must be UTF-8; rename the file or folder")
            if name.startswith("--") and name != "--" and name not in self._option_string_actions:
                self._unknown(name, whole.having(name))
            before = name
        return None

    def _unknown(self, name: str, having: list[str]) -> NoReturn:
        own = [option for option in self._option_string_actions if option.startswith("--")]
        near = [MOVED[name]] if MOVED.get(name) in own else difflib.get_close_matches(name, own, 1)
        if having and MOVED.get(name) not in own:
            hint = f"it is an option of {', '.join(having)}"
        else:
            hint = f"did you mean {near[0]}?" if near else "--help lists its options"
        self.error(f"{name}: {'does not apply to' if having else 'is no option of'} {self.prog}; {hint}")


def _parent(*options: tuple[str, dict[str, Any]]) -> Parser:
    p = Parser(add_help=False)
    for name, how in options:
        p.add_argument(name, **how)
    return p


BACKENDS = _parent(("--backends", {"metavar": "A,B", "help": f"of {', '.join(backends.names())}; of a sampler without a network, "
                                   "SAMPLER+NETWORK; default: all that are installed"}))
NETWORK = _parent(("--network", {"metavar": "NAME", "help": "whose network a backend without one samples with; default: none, and "
                                 "such a backend is left out or refused"}))
BACKEND = _parent(("--backend", {"metavar": "NAME", "default": backends.DEFAULT, "help": f"of {', '.join(backends.names())}"}))
DEVICE = _parent(("--device", {"type": device, "metavar": "NAME", "default": "cpu", "help": "cpu, cuda, cuda:N, ascend or tpu"}))
DTYPE = _parent(("--dtype", {"default": "float32", "help": "of the network: float32, bfloat16, float16 or float64"}))
MODE = _parent(("--mode", {"default": "tuned", "help": "of the backend: tuned, stock, compiled, or, where it has it, exported"}))
DATA = _parent(
    ("--dataset", {"metavar": "NAME", "help": f"{NAMED}; default: the preset's, or images where --data has no file of it"}),
    ("--data", {"type": place_to_read, "metavar": "PATH", "help": "folder of the data set's files; or images of your own: a folder "
                "of them, a .npz or a .npy file; default: $DDIM_BENCH_DATA, the download cache or the subset that ships"}),
    ("--download", {"action": "store_true", "help": "fetch the data set where no file of it is found"}),
    ("--pad", {"action": "store_true", "help": "surround images that are smaller than the network's with black"}))
SIZE = _parent(("--channels", {"type": int, "metavar": "N", "help": "of the network for images of your own: 1, grey, or 3, RGB; "
                               "default: as the images are"}))
SEED = _parent(("--seed", {"type": int, "default": 0, "help": "of weights, batches and samples"}))
THREADS = _parent(("--threads", {"type": int, "help": "CPU threads of each backend; default: the cores that this process may use"}))
OUT = _parent(("--out", {"type": Path, "metavar": "FOLDER", "default": RESULTS,
                         "help": "of rows, figures and pages; default: results"}))
FRESH = _parent(("--fresh", {"action": "store_true", "help": "do finished work again"}))
METRICS = ("fmnist-cnn, the network that ships, for grey 28 x 28 images; inception, that of papers; or a file that ddim-bench "
           "metric wrote, of a network trained on images of your own")
INCEPTION: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "a file in torch-fidelity's format; default: "
                             "torch-fidelity's own, which --download fetches"}
METRIC = _parent(
    ("--metric", {"metavar": "NAME", "default": "fmnist-cnn", "help": f"what the features of FID come from: {METRICS}; none does "
                  "not measure"}), ("--inception-weights", INCEPTION))
SPACING = _parent(("--spacing", {"metavar": "NAME", "help": "how timesteps are chosen: leading (uniform), linspace, trailing or "
                                 "quad; default: the convention's; for plain that of the fast solvers heun, dpmpp_2s, dpmpp_3m and "
                                 "unipc_3 is trailing"}))

SAMPLING = _parent(
    ("--clip", {"metavar": "RULE", "help": "of the predicted image: none, a largest value such as 1 or 3.5, or "
                "dynamic[:RATIO[:MAX]]; default: the convention's"}),
    ("--variance", {"metavar": "NAME", "help": "of the sampler ddpm: small, large, learned or learned_range; default: that of the "
                    "weights, else the convention's"}),
    ("--final-alpha", {"metavar": "NAME", "help": "alpha_bar after the last step: one; first, that of t = 0; or start, of the "
                       "state that the schedule tutorial has before t = 0; default: the convention's"}),
    ("--steps-offset", {"type": int, "metavar": "N", "help": "added to the timesteps of the spacing leading; default: 0"}))
IGNORE = _parent(("--ignore-scheduler", {"action": "store_true", "help": "go on without the sampling settings of a diffusers "
                                         "folder, whose scheduler may then be of any class"}))


UNSAID = ("heads", "image_size", "schedule", "timesteps", "objective", "time_order", "head_channels", "qkv_order")
SAYING = _parent(
    ("--heads", {"type": int, "metavar": "N", "help": "attention heads of --weights whose file does not say it; default: 4 for "
                 "improved-diffusion, whose LSUN networks have 1; 8 channels each for a UNet2DModel"}),
    ("--head-channels", {"type": int, "metavar": "N", "help": "channels of a head, in place of --heads, in a file of "
                         "guided-diffusion (its num_head_channels); default: as --heads says"}),
    ("--qkv-order", {"metavar": "NAME", "help": "in such a file: heads, or qkv where its use_new_attention_order was on; default: "
                     "heads"}),
    ("--image-size", {"type": int, "metavar": "N", "help": "of such --weights; default: that whose first attention is at 16 x 16. "
                      "Of a new network for images of your own; default: theirs, at most 64"}),
    ("--schedule", {"metavar": "NAME", "help": "schedule of such --weights or a new network; default: linear or the preset's"}),
    ("--timesteps", {"type": int, "metavar": "T", "help": "of such --weights or a new network; default: 1000 or the preset's"}),
    ("--objective", {"metavar": "NAME", "help": "what such --weights or a new network predict: eps, x0, v or previous; default: "
                     "eps or the preset's"}),
    ("--time-order", {"metavar": "NAME", "help": "whether sin or cos comes first in the time embedding of such --weights; default: "
                      "that of their code"}))


def unsaid(args: argparse.Namespace, *new: str) -> Unsaid:
    """The options of SAYING as a record. Raises ConfigError, also where one that `new` does not name lacks its --weights."""
    from bench.weights.unsaid import Unsaid

    if getattr(args, "weights", "") is None:
        unused(args, "without --weights", *(name for name in UNSAID if name not in new))
    try:
        return Unsaid(**{name: getattr(args, name) for name in UNSAID}, clip=getattr(args, "clip", None))
    except ConfigError as error:
        name, _, rest = str(error).partition("=")
        raise ConfigError(f"--{name.replace('_', '-')}={rest}") from None


def sampling_choices(args: argparse.Namespace) -> dict[str, Any]:
    """The options of SAMPLING that were given, as arguments of `make_plan`. Raises ConfigError for a mistyped rule of clipping."""
    from reference.scheduler import parse_clip

    try:
        parse_clip(args.clip or "none")
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None
    asked = {"clip": args.clip, "variance": args.variance, "final_alpha_bar": args.final_alpha, "steps_offset": args.steps_offset}
    return {name: value for name, value in asked.items() if value is not None}


def data_choice(args: argparse.Namespace) -> Choice:
    """The options of DATA as a record."""
    from bench.data.datasets import Choice

    return Choice(args.dataset, args.data, args.download, args.pad)


def at_least(args: argparse.Namespace, least: float, *names: str) -> None:
    """Raise ConfigError where an option that was given is below `least`, not finite, or more than `MOST` says that it can be."""
    for name in names:
        value, (most, rule) = getattr(args, name), MOST.get(name, (math.inf, " and finite"))
        require(value is None or least <= value < most, f"--{name.replace('_', '-')}", value,
                f"must be at least {least:g}" + (rule if name in MOST or value == most else ""))


def unused(args: argparse.Namespace, why: str, *names: str) -> None:
    """Raise ConfigError where one of these options was given, though it changes nothing here; `why` says when it would not."""
    for name in names:
        value = getattr(args, name)
        require(value is None or value is False, f"--{name.replace('_', '-')}", value, f"does not apply {why}")
