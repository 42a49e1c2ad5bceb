"""Small networks and batches."""

import pytest
import torch


@pytest.fixture
def small_backbone() -> dict:
    """Config of a Point Transformer V3 with two stages and few channels."""
    return {
        "type": "PT-v3m1",
        "in_channels": 4,
        "order": ("z", "z-trans", "hilbert", "hilbert-trans"),
        "stride": (2,),
        "enc_depths": (1, 2),
        "enc_channels": (16, 16),
        "enc_num_head": (2, 2),
        "enc_patch_size": (32, 32),
        "dec_depths": (1,),
        "dec_channels": (16,),
        "dec_num_head": (2,),
        "dec_patch_size": (32,),
        "drop_path": 0.1,
    }


CRITERIA = [{"type": "CrossEntropyLoss"}, {"type": "LovaszLoss", "mode": "multiclass"}]


@pytest.fixture
def small_segmentor(small_backbone) -> dict:
    """Config of a segmentor on it, five classes."""
    return {
        "type": "DefaultSegmentorV2",
        "num_classes": 5,
        "backbone_out_channels": 16,
        "backbone": small_backbone,
        "criteria": CRITERIA,
    }


@pytest.fixture
def small_unet() -> dict:
    """Config of a sparse U-Net, five classes."""
    return {
        "type": "DefaultSegmentor",
        "backbone": {
            "type": "SpUNet-v1m1",
            "in_channels": 4,
            "num_classes": 5,
            "base_channels": 8,
            "channels": (8, 16, 16, 8),
            "layers": (1, 1, 1, 1),
        },
        "criteria": CRITERIA,
    }


def make_batch(sizes=(150, 90), extent=14, seed=0, labels=True, distinct=True) -> dict:
    """A batch of random scans with distinct voxels."""
    generator = torch.Generator().manual_seed(seed)
    grids = [torch.randint(0, extent, (n, 3), generator=generator) for n in sizes]
    if distinct:
        grids = [g.unique(dim=0) for g in grids]
    grids = [g[torch.randperm(len(g), generator=generator)] for g in grids]
    grid = torch.cat(grids)
    batch = {
        "coord": grid * 0.05,
        "grid_coord": grid,
        "feat": torch.randn(len(grid), 4, generator=generator),
        "offset": torch.tensor([len(g) for g in grids]).cumsum(0),
    }
    if labels:
        batch["segment"] = torch.randint(-1, 5, (len(grid),), generator=generator)
    return batch


@pytest.fixture
def batch() -> dict:
    """Two scans with labels."""
    return make_batch()
