"""Every config of the repository: it loads, it is short, its model builds, and what it says is true."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import pointcept.engines.hooks
import pointcept.models  # noqa: F401
from pointcept.datasets import DATASETS
from pointcept.datasets.label_space import label_space
from pointcept.engines.defaults import load_config
from pointcept.engines.study.plan import Planner, load_study
from pointcept.evaluation import ConfusionMatrix
from pointcept.models import Distiller, build_inference_model, build_model
from pointcept.utils.config import Config, parse_options
from pointcept.utils.config_loader import load_layer
from pointcept.utils.config_schema import defaults
from pointcept.utils.errors import ConfigError, by_nearness
from pointcept.utils.registry import registries
from tests.paths import CONFIGS, REPO

MAX_LINES = 30
EXPERIMENTS = sorted(path for path in CONFIGS.glob("*/*.py") if path.parent.name not in ("_base_", "studies"))
STUDIES = sorted(CONFIGS.glob("studies/*.py"))
IDS = [f"{path.parent.name}/{path.stem}" for path in EXPERIMENTS]
DISTILLATIONS = [path for path in EXPERIMENTS if "Distiller" in path.read_text()]


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def network(cfg: Config) -> nn.Module:
    """The model of a config; a distiller without its teacher's weight file."""
    model = cfg.model.to_dict()
    return build_model({**model, "teacher_weight": "random"} if model["type"] == "Distiller" else model)


def class_names(section: Config) -> tuple[str, ...]:
    """The classes of a data set, or those that the data sets of a ConcatDataset have in common."""
    if section.type != "ConcatDataset":
        return DATASETS.get(section.type).names  # type: ignore[attr-defined]
    own = {entry.type: class_names(entry) for entry in section.datasets}
    if "label_space" not in section:
        assert len(set(own.values())) == 1
        return own[section.datasets[0].type]
    space = label_space(section.label_space)
    for name, names in own.items():
        space.table(name, names, -1)  # raises unless each class has its place
    return space.names


def test_the_experiments_are_found() -> None:
    for dataset in ("semantic_kitti", "nuscenes", "waymo", "synthetic"):
        kinds = ("teacher", "student", "distill_full", "distill_kld", "distill_grad", "distill_topo")
        assert {f"{dataset}/{kind}" for kind in kinds} <= set(IDS)
    assert {"semantic_kitti/small_teacher", "synthetic/small_distill_full", "joint/driving_teacher"} <= set(IDS)
    assert DISTILLATIONS


@pytest.mark.parametrize("path", EXPERIMENTS, ids=IDS)
def test_a_config_is_short_and_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES, f"{len(lines)} lines: move what others share to configs/_base_"
    assert lines[0].startswith("#"), "the first line says what the experiment is"
    monkeypatch.chdir(tmp_path)  # nothing may depend on the working folder
    cfg = load_config(path)
    assert load_config(cfg.dump(tmp_path / "dumped.py")) == cfg
    moved = load_config(path, {"data_root": "/elsewhere"})
    assert {moved.data[split].data_root for split in ("train", "val", "test")} == {"/elsewhere"}
    assert cfg.save_path == f"exp/{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_short_and_whole(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith("#"), "the first line says what the study is"
    monkeypatch.chdir(tmp_path)
    study = load_study(path)
    assert study.save_path == f"exp/studies/{path.stem}"
    runs = Planner(study, {"data_root": "/elsewhere"}).runs()
    assert {(run.row, run.fold) for run in runs} == {(row, k) for row in study.rows for k in range(len(study.folds))}
    for run in runs:
        assert run.config.data.train.data_root == "/elsewhere"
        train = run.config.data.train
        parts = train.get("datasets", [train])
        assert not set(map(str, run.scenes)) & {str(scene) for part in parts for scene in part.sequences}
        if run.teacher is not None:
            assert run.config.model.teacher == run.teacher.config.model
            weights = [str(teacher.weights) for teacher in run.teachers]
            assert run.config.model.teacher_weight == (weights if len(weights) > 1 else weights[0])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=IDS)
def test_the_model_builds_and_fits_the_data(path: Path) -> None:
    cfg = load_config(path)
    model = network(cfg)
    names = class_names(cfg.data.train)
    assert {class_names(cfg.data[split]) for split in ("val", "test")} == {names}
    deployed = build_inference_model(cfg.model)
    student = model.student if isinstance(model, Distiller) else model
    assert deployed.state_dict().keys() == student.state_dict().keys()
    assert deployed.num_classes == len(names)
    if path.stem.endswith("teacher") and not path.stem.startswith("small"):
        assert round(millions(deployed), 2) == 46.16
    if path.stem == "student" or (path in DISTILLATIONS and not path.stem.startswith("small")):
        assert round(millions(deployed), 2) == 2.78


def test_parameter_counts_are_those_of_the_paper() -> None:
    teacher, student = (load_config(CONFIGS / "semantic_kitti" / f"{kind}.py").model for kind in ("teacher", "student"))
    assert millions(build_model(teacher)) == 46.159507
    assert round(millions(build_model({**teacher, "num_classes": 16})), 2) == 46.16
    assert round(millions(build_model({**student, "num_classes": 16})), 2) == 2.78


@pytest.mark.parametrize("path", sorted((CONFIGS / "_base_" / "models").glob("*.py")), ids=lambda path: path.stem)
def test_the_size_in_a_comment_is_the_size_of_the_model(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    said = re.search(r"(\d+\.\d+) M parameters", text)
    assert said, "the comment at the top says how many parameters the model has"
    role = next(role for role in ("teacher", "student", "model") if re.search(rf"^{role} = ", text, re.MULTILINE))
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = [{str(path)!r}]\nmodel = dict({{{{_base_.{role}}}}}, num_classes=19)\ndata = dict()\n")
    found = millions(build_model(load_config(config).model))
    assert f"{found:.{len(said[1].split('.')[1])}f}" == said[1]


@pytest.mark.parametrize("path", DISTILLATIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_distillation_reads_what_the_teachers_config_writes(path: Path) -> None:
    cfg = load_config(path)
    teachers = {f"{other.save_path}/model/model_best.pth": other for other in map(load_config, EXPERIMENTS)}
    assert cfg.model.teacher_weight in teachers
    teacher = teachers[cfg.model.teacher_weight]
    assert cfg.model.teacher == teacher.model
    assert cfg.data.val == teacher.data.val


def test_mixes_stand_before_the_usual_transforms() -> None:
    plain = load_config(CONFIGS / "semantic_kitti" / "student.py").data.train.transform
    options = parse_options(["data.train.transform.0.p=0.25", 'data.train.transform.2.classes=["person", 7]'])
    mixed = load_config(CONFIGS / "semantic_kitti" / "student_mixed.py", options).data.train.transform
    assert [step.type for step in mixed[: -len(plain)]] == ["LaserMix", "PolarMix", "InstancePaste"]
    assert mixed[-len(plain) :] == plain
    assert (mixed[0].p, mixed[2].classes) == (0.25, ["person", 7])


# --- one owner for each fact ---


def literals(folder: Path) -> Iterator[tuple[Path, ast.AST]]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def listed(node: ast.AST) -> set[Any]:
    """The constants that a list, tuple, set or the keys of a dict hold."""
    entries = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
    return {entry.value for entry in entries if isinstance(entry, ast.Constant)}


@pytest.mark.parametrize("dataset", ["SemanticKITTIDataset", "NuScenesDataset", "WaymoDataset"])
def test_the_classes_of_a_data_set_stand_in_one_module(dataset: str) -> None:
    cls = DATASETS.get(dataset)
    names = set(cls.names)  # type: ignore[attr-defined]
    owners = set()
    for folder in (REPO / "pointcept", REPO / "configs", REPO / "tools", REPO / "libs"):
        owners |= {path for path, node in literals(folder) if len(listed(node) & names) > len(names) // 2}
    assert owners == {Path(inspect.getfile(cls))}


def test_the_raw_labels_of_semantic_kitti_stand_in_one_module() -> None:
    numbers: dict[Path, set[Any]] = {}
    for folder in (REPO / "pointcept", REPO / "configs"):
        for path, node in literals(folder):
            if isinstance(node, ast.Constant):
                numbers.setdefault(path, set()).add(node.value)
    owners = [path.name for path, found in numbers.items() if {252, 253, 254, 256, 257, 258, 259} <= found]
    assert owners == ["semantic_kitti.py"]


def test_the_ignore_index_is_the_same_everywhere_and_no_config_sets_it() -> None:
    found: dict[str, Any] = {"ConfusionMatrix": ConfusionMatrix}
    for registry in registries().values():
        found |= {name: registry.get(name) for name in registry.names() if ours(registry.get(name))}
    defaults = {
        name: inspect.signature(entry).parameters["ignore_index"].default
        for name, entry in found.items()
        if "ignore_index" in inspect.signature(entry).parameters
    }
    assert len(defaults) > 6
    assert set(defaults.values()) == {-1}, defaults
    assert not [path for path in CONFIGS.rglob("*.py") if "ignore_index" in path.read_text()]


# --- documentation of what configs may name ---


def ours(entry: Any) -> bool:
    """Not registered by a test, and not an optimizer of torch."""
    return entry.__module__.startswith("pointcept.")


REGISTRIES = ("datasets", "transforms", "losses", "distillation losses", "hooks", "models", "trainers", "testers")
ENTRIES = [
    pytest.param(registries()[registry].get(name), id=f"{registry}-{name}")
    for registry in (*REGISTRIES, "schedulers")
    for name in registries()[registry].names()
    if ours(registries()[registry].get(name))
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_a_config_may_name_is_documented(entry: Any) -> None:
    text = (entry.__doc__ or "").strip()
    assert text.endswith("."), "no docstring, or no sentence"
    # PyTorch's own documentation describes the arguments of the schedules that it implements.
    arguments = [] if inspect.isfunction(entry) else list(inspect.signature(entry).parameters)
    told = " ".join(base.__doc__ or "" for base in entry.__mro__[:-1] if ours(base)) if arguments else ""
    # "name: meaning" or "name, other: meaning" below Args, or ``name`` in a sentence.
    missing = [n for n in arguments if not re.search(rf"(?m)^ *\**(\w+, )*{n}(, \w+)*: ?|``{n}``", told)]
    assert not missing, f"the docstring does not say what {missing} mean"


# --- a config as users of Pointcept have it ---

POINTCEPT_RUNTIME = """
weight = None
resume = False
evaluate = True
test_only = False
seed = None
save_path = "exp/default"
num_worker, batch_size, batch_size_val, batch_size_test = 16, 16, None, None
epoch, eval_epoch, clip_grad = 100, 100, None
sync_bn, enable_amp, amp_dtype = False, False, "float16"
empty_cache, empty_cache_per_epoch, find_unused_parameters = False, False, False
enable_wandb, wandb_project, wandb_key = True, "pointcept", None
mix_prob, param_dicts = 0, None
hooks = [
    dict(type="CheckpointLoader"),
    dict(type="ModelHook"),
    dict(type="IterationTimer", warmup_iter=2),
    dict(type="InformationWriter"),
    dict(type="SemSegEvaluator"),
    dict(type="CheckpointSaver", save_freq=None),
    dict(type="PreciseEvaluator", test_last=False),
]
train = dict(type="DefaultTrainer")
test = dict(type="SemSegTester", verbose=True)
"""

POINTCEPT_NUSCENES = """
_base_ = ["../_base_/default_runtime.py"]
batch_size = 12
mix_prob = 0.8
empty_cache = False
enable_amp = True
model = dict(
    type="DefaultSegmentorV2",
    num_classes=16,
    backbone_out_channels=64,
    backbone=dict(
        type="PT-v3m1",
        in_channels=4,
        order=["z", "z-trans", "hilbert", "hilbert-trans"],
        stride=(2, 2, 2, 2),
        enc_depths=(2, 2, 2, 6, 2),
        enc_channels=(32, 64, 128, 256, 512),
        enc_num_head=(2, 4, 8, 16, 32),
        enc_patch_size=(1024,) * 5,
        dec_depths=(2, 2, 2, 2),
        dec_channels=(64, 64, 128, 256),
        dec_num_head=(4, 4, 8, 16),
        dec_patch_size=(1024,) * 4,
        mlp_ratio=4, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0, drop_path=0.3,
        shuffle_orders=True, pre_norm=True, enable_rpe=False, enable_flash=True,
        upcast_attention=False, upcast_softmax=False, enc_mode=False,
        pdnorm_bn=False, pdnorm_ln=False, pdnorm_decouple=True, pdnorm_adaptive=False, pdnorm_affine=True,
        pdnorm_conditions=("nuScenes", "SemanticKITTI", "Waymo"),
    ),
    criteria=[
        dict(type="CrossEntropyLoss", loss_weight=1.0, ignore_index=-1),
        dict(type="LovaszLoss", mode="multiclass", loss_weight=1.0, ignore_index=-1),
    ],
)
epoch = 50
eval_epoch = 50
optimizer = dict(type="AdamW", lr=0.002, weight_decay=0.005)
scheduler = dict(
    type="OneCycleLR", max_lr=[0.002, 0.0002], pct_start=0.04, anneal_strategy="cos",
    div_factor=10.0, final_div_factor=100.0,
)
param_dicts = [dict(keyword="block", lr=0.0002)]
dataset_type = "NuScenesDataset"
data_root = "data/nuscenes"
ignore_index = -1
names = ["barrier", "bicycle", "bus", "car"]
grid = dict(type="GridSample", grid_size=0.05, hash_type="fnv", mode="train", return_grid_coord=True)
collect = dict(type="Collect", keys=("coord", "grid_coord", "segment"), feat_keys=("coord", "strength"))
common = dict(type=dataset_type, data_root=data_root, ignore_index=ignore_index)
data = dict(
    num_classes=16,
    ignore_index=ignore_index,
    names=names,
    train=dict(
        common, split="train", test_mode=False,
        transform=[
            dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=0.5),
            dict(type="RandomScale", scale=[0.9, 1.1]),
            dict(type="RandomFlip", p=0.5),
            dict(type="RandomJitter", sigma=0.005, clip=0.02),
            grid,
            dict(type="ToTensor"),
            collect,
        ],
    ),
    val=dict(common, split="val", test_mode=False, transform=[grid, dict(type="ToTensor"), collect]),
    test=dict(
        common, split="val", test_mode=True,
        transform=[
            dict(type="Copy", keys_dict={"segment": "origin_segment"}),
            dict(type="GridSample", grid_size=0.025, hash_type="fnv", mode="train", return_inverse=True),
        ],
        test_cfg=dict(
            voxelize=dict(type="GridSample", grid_size=0.05, hash_type="fnv", mode="test", return_grid_coord=True),
            crop=None,
            post_transform=[
                dict(type="ToTensor"),
                dict(type="Collect", keys=("coord", "grid_coord", "index"), feat_keys=("coord", "strength")),
            ],
            aug_transform=[
                [dict(type="RandomScale", scale=[0.9, 0.9])],
                [dict(type="RandomScale", scale=[1, 1]), dict(type="RandomFlip", p=1)],
            ],
        ),
    ),
)
"""


@pytest.fixture(params=["its own checkout", "our configs"])
def pointcept_config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """That config beside Pointcept's base, or beside ours of the same name."""
    if request.param == "our configs":
        (tmp_path / "_base_").symlink_to(CONFIGS / "_base_")
    else:
        (tmp_path / "_base_").mkdir()
        (tmp_path / "_base_" / "default_runtime.py").write_text(POINTCEPT_RUNTIME)
    path = tmp_path / "nuscenes" / "semseg.py"
    path.parent.mkdir()
    path.write_text(POINTCEPT_NUSCENES)
    return path


def test_a_config_of_pointcept_is_taken_as_it_is(
    pointcept_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="pointcept")
    cfg = load_config(pointcept_config, {"data_root": "/mnt/nuscenes"})
    assert round(millions(build_model(cfg.model)), 2) == 46.16
    assert [hook.type for hook in cfg.hooks] == [hook["type"] for hook in defaults()["hooks"]]
    assert (cfg.enable_amp, cfg.num_worker, cfg.batch_size, cfg.epoch) == (True, 16, 12, 50)
    assert cfg.data.train.data_root == cfg.data.test.data_root == "/mnt/nuscenes"
    named = ["empty_cache_per_epoch", "enable_wandb", "wandb_project", "wandb_key", "ModelHook"]
    told = [record.getMessage() for record in caplog.records]
    if (tmp_path / "_base_").is_symlink():
        assert told == []
    else:
        assert sorted(named) == sorted(name for text in told for name in named if f"{name!r}" in text)
        assert len(told) == len(named)
    caplog.clear()
    assert load_config(cfg.dump(tmp_path / "dumped.py")) == cfg
    assert not caplog.records


def test_a_config_that_pointcept_has_dumped_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its ``exp/.../config.py`` has the bases' keys and all helper variables in one file, read by nothing."""
    layer = load_layer(_written(tmp_path / "_base_" / "default_runtime.py", POINTCEPT_RUNTIME))
    full = load_layer(_written(tmp_path / "nuscenes" / "semseg.py", POINTCEPT_NUSCENES))
    assert {"dataset_type", "ignore_index", "names"} < full.values.keys()
    text = "".join(f"{key} = {value!r}\n" for key, value in {**layer.values, **full.values}.items())
    dumped = load_config(_written(tmp_path / "exp" / "config.py", text))
    assert dumped == load_config(tmp_path / "nuscenes" / "semseg.py")


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("place", "name", "registry"),
    [
        ("model", "PPT-v1m1", "models"),
        ("model.backbone", "PT-v2m2", "models"),
        ("model.backbone", "CrossEntropyLoss", "models"),
        ("model.criteria.0", "KLDLoss", "losses"),
        ("model.criteria.1", "BinaryFocalLoss", "losses"),
        ("hooks.1", "InsSegEvaluator", "hooks"),
        ("optimizer", "OneCycleLR", "optimizers"),
        ("scheduler", "CosineScheduler", "schedulers"),
        ("train", "MultiDatasetTrainer", "trainers"),
        ("test", "ClsTester", "testers"),
        ("data.train", "ScanNetDataset", "datasets"),
        ("data.train.transform.2", "PositiveShift", "transforms"),
        ("data.test.test_cfg.voxelize", "NuScenesDataset", "transforms"),
        ("data.test.test_cfg.aug_transform.0.0", "RandomScal", "transforms"),
    ],
)
def test_an_unknown_type_is_looked_up_where_it_stands(place: str, name: str, registry: str) -> None:
    path = CONFIGS / "nuscenes" / "teacher.py"
    with pytest.raises(ConfigError) as caught:
        load_config(path, {f"{place}.type": name})
    text = str(caught.value)
    assert text.startswith(f"{path}: {place}: unknown type {name!r} in the registry of {registry}: ")
    listed = text.partition("Allowed: ")[2].rstrip(".").split(", ")
    assert sorted(listed) == registries()[registry].names()
    assert listed == by_nearness(name, listed)


def test_the_losses_of_a_distiller_are_looked_up_among_theirs() -> None:
    path = CONFIGS / "nuscenes" / "distill_full.py"
    for place, registry in (("losses.0", "distillation losses"), ("teacher.criteria.0", "losses")):
        with pytest.raises(ConfigError, match=f"model.{place}: unknown type 'DiceLos' in the registry of {registry}"):
            load_config(path, {f"model.{place}.type": "DiceLos"})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_kept_results_are_those_of_the_study(path: Path) -> None:
    """Otherwise a study would refuse to go on from them: a key that decides no result belongs to ``ablation.PLACE``."""
    kept = {file.stem: json.loads(file.read_text()) for file in (REPO / "docs" / "studies" / path.stem).rglob("*.json")}
    rows = sorted({result["row"] for result in kept.values()})
    runs = {run.name: run for run in Planner(load_study(path, None), {}).runs(rows, [], [0])}
    assert {name: result["fingerprint"] for name, result in kept.items()} == {n: runs[n].fingerprint for n in kept}
    assert kept
