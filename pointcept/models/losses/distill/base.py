"""What the losses between student and teacher share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pointcept.models.output import Output


class DistillationLoss(nn.Module):
    """A scalar from the outputs of both networks for one batch.

    Args:
        loss_weight: factor that the distiller applies to the returned value.
    """

    def __init__(self, loss_weight: float) -> None:
        super().__init__()
        self.loss_weight = float(loss_weight)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss without its weight; the teacher's tensors carry no gradient.

        Args:
            student: output of the network that learns.
            teacher: output of the frozen network for the same rows.
            batch: the collated samples.
        """
        raise NotImplementedError
