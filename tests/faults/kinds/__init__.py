"""All cases, one module for each kind; importing this package declares them."""

from tests.faults.case import FAULTS
from tests.faults.kinds import (
    a_resume,
    b_checkpoints,
    c_disk,
    d_data,
    e_processes,
    f_environment,
    g_config,
    h_testing,
)

__all__ = [
    "FAULTS",
    "a_resume",
    "b_checkpoints",
    "c_disk",
    "d_data",
    "e_processes",
    "f_environment",
    "g_config",
    "h_testing",
]
