"""What ships with the package: the student that predicts out of the box, with its card ``shipped_student.md``."""

from __future__ import annotations

from pathlib import Path

from pointcept.utils.errors import ConfigError

SHIPPED = Path(__file__).parent / "shipped_student.pth"
"""Weights in half precision, with the config of their training in them."""


def shipped_weight() -> Path:
    """The weights of the shipped student; ``pointcept.engines.restore.config_of`` reads their config.

    Raises:
        ConfigError: this copy of the package has none.
    """
    if not SHIPPED.is_file():
        raise ConfigError(
            f"this copy of pointcept ships no weights ({SHIPPED} is missing): name some with --weight FILE, or make "
            "them with the commands of docs/shipped-student.md"
        )
    return SHIPPED
