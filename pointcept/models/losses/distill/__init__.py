"""Losses between a student and its teacher: importing this package registers them."""

from pointcept.models.losses.distill.kld import KLDLoss

__all__ = ["KLDLoss"]
