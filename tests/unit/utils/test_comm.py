"""Rank functions in one process; two processes are in tests/unit/engines/test_launch.py."""

from __future__ import annotations

import torch

from pointcept.utils import comm


def test_one_process_is_a_world() -> None:
    assert (comm.rank(), comm.world_size(), comm.is_main_process(), comm.is_distributed()) == (0, 1, True, False)
    comm.barrier()
    tensor = torch.tensor([1, 2])
    assert comm.all_reduce_sum(tensor).tolist() == [1, 2]
    assert comm.gather_objects("a") == ["a"]
    assert comm.broadcast_object({"b": 1}) == {"b": 1}
