"""Where the repository keeps what it ships."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "results" / "checkpoints"
ASSETS = Path(__file__).parent / "assets"
