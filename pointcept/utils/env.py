"""What a run was made with: versions, machine, commit, command line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pointcept import __version__
from pointcept.utils import comm
from pointcept.utils.device import device_facts
from pointcept.utils.files import write_text_atomic

PACKAGES = (
    "torch", "numpy", "scipy", "addict", "yapf", "tensorboardX", "triton", "spconv-cu118", "spconv-cu120",
    "spconv-cu126", "spconv-triton", "flash-attn", "pointops", "pointcept", "nuscenes-devkit",
    "waymo-open-dataset-tf-2-12-0", "protobuf",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result, where installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit and dirty flag of the checkout that holds ``folder`` (this package by default).

    Both are ``None`` when the package does not run from a git checkout.
    """
    folder = folder or Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                errors="replace",  # paths in messages need not be UTF-8
                timeout=20,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package inside site-packages may lie below a checkout that is not its own.
    if git("ls-files", "--error-unmatch", "--", str(folder / "pointcept" / "__init__.py")) is None:
        return {"commit": git("rev-parse", "HEAD") if (folder / ".git").exists() else None, "dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def collect_environment(seed: int | None = None) -> dict[str, Any]:
    """Everything that a reader needs to repeat a run; no host or user names.

    Args:
        seed: the run's seed, recorded as it is.
    """
    return {
        "pointcept": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": torch.__version__,
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        **device_facts(),
        "world_size": comm.world_size(),
        "packages": package_versions(),
        "git": git_state(),
        "command": sys.argv,
        "seed": seed,
    }


def write_environment(path: str | Path, seed: int | None = None) -> dict[str, Any]:
    """Write :func:`collect_environment` to ``path`` as JSON and return it."""
    facts = collect_environment(seed)
    write_text_atomic(path, json.dumps(facts, indent=2) + "\n")
    return facts
