"""The network for a person's own images: a preset that fits their size and colour, and the line that says so."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli.launch import launched
from bench.cli.options import data_choice
from bench.data.own_images import shape_of
from bench.data.pixels import in_words
from bench.presets import Preset, fitting, get_preset
from reference.config import ConfigError, require
from reference.weights import count


def preset(args: argparse.Namespace, default: str = "quick") -> Preset:
    """The preset of --preset, by default `default`. For images of one's own, without --weights, its network takes their size and
    colour or those of --image-size and --channels, and a line says what was chosen; without --preset one is chosen that fits.
    Raises ConfigError."""
    found, asked = get_preset(args.preset or default), {"--image-size": args.image_size, "--channels": args.channels}
    choice = data_choice(args)
    own = choice.own(found.dataset)
    if own is not None and not readable(own):
        return found  # what reads it says what is wrong
    if args.weights or own is None or getattr(args, "fit", None) == 0:
        why = "belongs to the network of --weights" if args.weights else "is for images of your own, which --data names"
        for name in ("--channels",) if args.weights else asked:
            require(asked[name] is None, name, asked[name], why)
        return found
    require(args.channels in (None, 1, 3), "--channels", args.channels, "must be 1, grey, or 3, RGB")
    channels, size = shape_of(own, pad=args.pad) if None in asked.values() else (0, 0)
    channels, size = args.channels or channels, args.image_size or size
    if (channels, size, size) != found.shape and not args.preset:
        found = fitting(size).changed(dataset=found.dataset)
    try:
        found = found.of_shape(channels, size)
    except ConfigError as error:
        unit = 2 ** (len(found.model.block_out_channels) - 1)
        raise ConfigError(f"--image-size={size}: {str(error).partition(': ')[2]}; take {max(1, size // unit) * unit}, or another "
                          "--preset") from None
    if launched().rank == 0:
        print(f"images: {in_words((channels, size, size))}"
              f"{', as they are (--image-size and --channels choose another)' if None in asked.values() else ''}; network: preset "
              f"{found.name}, {count(found.model) / 1e6:.2f}M parameters", flush=True)
    return found


def readable(place: Path) -> bool:
    """Whether images are read from a place of this kind, as from a folder or an array; what reads another says what is wrong."""
    return place.is_dir() or place.is_file() and place.suffix.lower() in (".npy", ".npz")
