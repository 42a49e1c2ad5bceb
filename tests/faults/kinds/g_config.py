"""G: configs and command lines with something wrong in them: one line that names the place, and nothing written."""

from __future__ import annotations

from pathlib import Path

from tests.faults.case import Step, fault
from tests.faults.promises import USER, ended, nothing_saved, refused, said, succeeded
from tests.faults.stage import Stage

# option -> words of the message
VALUES: dict[str, tuple[str, ...]] = {
    "optimizer.lr=-1": ("optimizer.lr", "-1"),
    "optimizer.lr=nan": ("optimizer.lr", "nan"),
    "optimizer.lr=1e999": ("optimizer.lr", "inf"),
    "optimizer.lr=fast": ("optimizer.lr", "fast"),
    "optimizer.lr=1e6": ("nan|infinite|loss",),
    "optimizer.betas=[0.9]": ("optimizer.betas",),
    "optimizer.betas=[2,0.9]": ("optimizer.betas",),
    "optimizer.betas=0.9": ("optimizer.betas",),
    "optimizer.eps=0": ("optimizer.eps",),
    "optimizer.weight_decay=-0.1": ("weight_decay",),
    "optimizer.type=Adamw": ("adamw", "AdamW"),
    "optimizer.foo=1": ("optimizer", "foo"),
    "optimizer={}": ("optimizer", "type"),
    "optimizer=5": ("optimizer",),
    "scheduler.pct_start=2": ("scheduler.pct_start", "2"),
    "scheduler.pct_start=-1": ("scheduler.pct_start",),
    "scheduler.max_lr=[]": ("max_lr",),
    "scheduler.max_lr=-1": ("max_lr",),
    "scheduler.max_lr=[0.1,nan]": ("max_lr",),
    "scheduler.div_factor=0": ("div_factor",),
    "scheduler.type=Cosine": ("Cosine", "CosineAnnealingLR"),
    "scheduler.total_steps=5": ("total_steps",),
    "model.backbone.enc_patch_size=(0,32)": ("enc_patch_size", "0"),
    "model.backbone.enc_patch_size=(-1,32)": ("enc_patch_size",),
    "model.backbone.dec_patch_size=(0,)": ("dec_patch_size",),
    "model.backbone.enc_channels=(0,8)": ("enc_channels",),
    "model.backbone.enc_channels=(8,-8)": ("enc_channels",),
    "model.backbone.enc_depths=(1,-1)": ("enc_depths",),
    "model.backbone.enc_depths=()": ("enc_depths",),
    "model.backbone.stride=(0,)": ("stride",),
    "model.backbone.stride=(3,)": ("stride",),
    "model.backbone.mlp_ratio=-4": ("mlp_ratio",),
    "model.backbone.mlp_ratio=0.001": ("mlp_ratio",),
    "model.backbone.enc_channels=(1000000000,8)": ("memory|enc_channels|backbone_out_channels|dec",),
    "model.backbone.drop_path=1": ("drop_path",),
    "model.backbone.order=[]": ("order",),
    "model.backbone.bn_momentum=nan": ("bn_momentum",),
    "model.type=PTv9": ("PTv9",),
    "model.num_classes=-1": ("num_classes",),
    "model.num_classes=20": ("num_classes", "19"),
    "model.criteria=[]": ("criteria",),
    "model=None": ("model",),
    "seed=12345678901234567890123": ("seed",),
    "seed=-1": ("seed",),
    "seed=1.5": ("seed",),
    "epoch=0": ("epoch",),
    "epoch=1e99": ("epoch",),
    "epoch=inf": ("epoch",),
    "epoch=True": ("epoch",),
    "eval_epoch=2": ("eval_epoch",),
    "eval_epoch=0": ("eval_epoch",),
    "batch_size=0": ("batch_size",),
    "batch_size=-2": ("batch_size",),
    "batch_size_val=0": ("batch_size_val",),
    "num_worker=-1": ("num_worker",),
    "gradient_accumulation_steps=0": ("gradient_accumulation_steps",),
    "clip_grad=-1": ("clip_grad",),
    "clip_grad=nan": ("clip_grad",),
    "mix_prob=1.1": ("mix_prob",),
    "mix_prob=-0.1": ("mix_prob",),
    "log_freq=0": ("log_freq",),
    "train.max_iter=0": ("max_iter",),
    "train.max_iter=-5": ("max_iter",),
    "train.max_iter=2.5": ("max_iter",),
    "train.max_iter=1000000000000000000000": ("max_iter",),
    "train.type=Trainer": ("Trainer",),
    "amp_dtype=float17": ("amp_dtype",),
    "backend=nonsense": ("backend",),
    "backend=5": ("backend",),
    "deterministic=maybe": ("deterministic",),
    "hooks=[]": ("",),
    "hooks=[{'type':'NoHook'}]": ("NoHook",),
    "hooks=[{}]": ("hooks", "type"),
    "hooks.9.type=x": ("hooks",),
    "data=None": ("data",),
    "data.train=None": ("data.train",),
    "data.train.type=Kitti": ("Kitti",),
    "data.train.split=nowhere": ("nowhere",),
    "data.train.sequences=[]": ("sequences",),
    "data.train.sequences=[-1]": ("sequences|-1",),
    "data.train.loop=0": ("loop",),
    "data.train.loop=1000000000000": ("loop|scans|memory",),
    "data.train.ignore_index=5": ("ignore_index",),
    "data.train.transform=[]": ("transform|feat|Collect|grid_coord",),
    "data.train.transform.3.grid_size=0": ("grid_size",),
    "data.train.transform.3.grid_size=1e-9": ("grid_size|voxels",),
    "data.train.transform.3.grid_size=nan": ("grid_size",),
    "data.train.transform.0.p=2": ("transform.0.p",),
    "data.test.test_mode=False": ("test_mode",),
    "data.val.test_mode=True": ("test_mode",),
    "data_root=5": ("data_root",),
    "weight=5": ("weight",),
    "resume=perhaps": ("resume",),
    "epochs=5": ("epochs", "epoch"),
    "model.backbone.enc_dephts=(1,1)": ("enc_dephts", "enc_depths"),
    "sync_bn=yes": ("sync_bn",),
    "param_dicts=[{'keyword':'nothing','lr':1}]": ("nothing",),
    "param_dicts=[{'keyword':'block','lr':-1}]": ("param_dicts",),
    "param_dicts={'keyword':'block'}": ("param_dicts",),
    "epoch": ("epoch", "key=value"),
    "=5": ("=5|key",),
    ".=5": ("key|.",),
    "model..type=x": ("model",),
    "epoch.x=5": ("epoch",),
    "model.backbone.__class__=x": ("__class__",),
}
LOSES = "optimizer.lr=1e6"
"""The one that training itself finds out."""
WORKS = ("hooks=[]",)


def trained(*options: str) -> Step:
    return lambda stage: stage.train(*options)


for _option, _words in VALUES.items():
    if _option in WORKS:
        fault("G", f"--options {_option}", trained(_option), succeeded)
    elif _option == LOSES:
        fault(
            "G",
            f"--options {_option}",
            trained(_option, "scheduler={'type':'ConstantLR'}", "param_dicts=None"),
            lambda stage, words=_words: refused(*words, codes=(1,))(stage) if stage.ending.code else None,
        )
    else:
        fault(
            "G",
            f"--options {_option}",
            trained(_option),
            refused(*_words),
            nothing_saved,
            quick=_option.endswith("=-1"),
        )

# --- config files: BASE is the recipe's ---

TEXTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "has a syntax error": ("BASEepoch = = 3\n", ("own.py", "SyntaxError")),
    "has wrong indentation": ("BASE  epoch = 3\n", ("own.py",)),
    "raises an exception": ("BASEraise RuntimeError('no')\n", ("own.py", "no")),
    "divides by zero": ("BASEepoch = 1 // 0\n", ("own.py", "zero")),
    "exits": ("BASEraise SystemExit(0)\n", ("own.py",)),
    "calls sys.exit": ("BASEimport sys\nsys.exit()\n", ("own.py",)),
    "recurses for ever": ("BASEdef f():\n    return f()\nf()\n", ("own.py", "recursion")),
    "imports what is not there": ("BASEimport no_such_module_xyz\n", ("own.py", "no_such_module_xyz")),
    "reads a file that is not there": ("BASEopen('/nowhere')\n", ("own.py", "/nowhere")),
    "holds a function": ("BASEmodel = dict(backbone=dict(drop_path=lambda: 1))\n", ("drop_path",)),
    "holds a class": ("BASEmodel = dict(type=dict)\n", ("type",)),
    "holds a set": ("BASEhooks = {1, 2}\n", ("hooks",)),
    "holds bytes": ("BASEsave_path = b'x'\n", ("save_path",)),
    "holds a dict that contains itself": ("BASEmodel = {}\nmodel['model'] = model\n", ("own.py|model",)),
    "holds a list that contains itself": ("BASEhooks = []\nhooks.append(hooks)\n", ("own.py|hooks",)),
    "is nested a thousand deep": (
        "BASEmodel = {}\nfor _ in range(1000):\n    model = {'a': model}\n",
        ("own.py|model",),
    ),
    "is its own base": ("_base_ = ['own.py']\n", ("own.py", "itself|cycle|circle|base")),
    "has a base that is not there": ("_base_ = ['nowhere.py']\n", ("nowhere.py",)),
    "has a base that is a folder": ("_base_ = ['.']\n", ("folder|directory|base",)),
    "has a number as base": ("_base_ = 5\n", ("_base_",)),
    "has an empty base": ("_base_ = ['']\n", ("own.py|base",)),
    "names what its base has not": ("BASEmodel = {{_base_.nothing}}\n", ("nothing",)),
    "has a reference that does not end": ("BASEmodel = {{_base_.student\n", ("own.py",)),
    "deletes everything": ("BASEmodel = dict(_delete_=True)\n", ("model", "type")),
    "has an unknown key": ("BASEbatch_sise = 2\n", ("batch_sise", "batch_size")),
    "has keys that are numbers": ("BASEmodel = {1: 2}\n", ("model",)),
    "has NaN as key's value": ("BASEclip_grad = float('nan')\n", ("clip_grad",)),
    "has a NumPy number": ("BASEimport numpy\nclip_grad = numpy.float32(1)\n", ("",)),
    "has a path object": ("BASEfrom pathlib import Path\nsave_path = Path('x')\n", ("save_path",)),
    "has a hundred thousand letters in a value": ("BASEsave_path = 'a' * 100000\n", ("own.py|save_path|too long",)),
}
MAY_WORK = ("has a NumPy number",)


def with_text(text: str, *options: str) -> Step:
    def inject(stage: Stage) -> None:
        path = stage.folder / "own.py"
        path.write_text(text.replace("BASE", f"_base_ = [{str(stage.config())!r}]\n"))
        own = () if "save_path" in text else (f"save_path={stage.run}",)
        given = [*own, *options]
        stage.call("train", "--config", str(path), *(["--options", *given] if given else []))

    return inject


for _what, (_text, _words) in TEXTS.items():
    if _what in MAY_WORK:
        fault(
            "G",
            f"a config that {_what}",
            with_text(_text),
            lambda stage, words=_words: refused(*words)(stage) if stage.ending.code else None,
        )
    else:
        fault("G", f"a config that {_what}", with_text(_text), refused(*_words), nothing_saved)


def two_bases(stage: Stage) -> None:
    """Two files that are each other's base."""
    (stage.folder / "own.py").write_text("_base_ = ['other.py']\n")
    (stage.folder / "other.py").write_text("_base_ = ['own.py']\n")
    stage.call("train", "--config", str(stage.folder / "own.py"))


fault("G", "two configs that are each other's base", two_bases, refused("own.py", "other.py"))

# --- other tools ---

for _tool in ("train", "test", "predict", "study", "ablation", "benchmark", "benchmark_data", "compare"):
    fault(
        "G",
        f"{_tool} without arguments",
        lambda stage, tool=_tool: stage.call(tool),
        ended(USER),
        said("usage|error: "),
    )
    if _tool != "compare":
        fault(
            "G",
            f"{_tool} with a config that is not there",
            lambda stage, tool=_tool: stage.call(tool, "--config", "nowhere.py", *_needed(tool)),
            refused("nowhere.py"),
        )


def _needed(tool: str) -> tuple[str, ...]:
    return ("--scan", "x", "--out", "y") if tool == "predict" else ()


fault(
    "G",
    "train with an unknown flag",
    lambda stage: stage.call("train", "--confg", "x"),
    ended(USER),
    said("usage", "--confg|--config"),
)
fault(
    "G",
    "train with words as number of GPUs",
    lambda stage: stage.train(flags=("--num-gpus", "two")),
    ended(USER),
    said("--num-gpus", "two"),
)
for _what, _content in (
    ("is a text", "x"),
    ("is cut", '{"a": '),
    ("is a list", "[1]"),
    ("is empty", ""),
    ("is not there", None),
):

    def compared(stage: Stage, content: str | None = _content) -> None:
        folder = stage.folder / "one" / "result"
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "miou_precise.json").write_text(content)
        stage.call("compare", f"a={folder.parent}")

    fault("G", f"compare of a result that {_what}", compared, refused("miou_precise|one"))


def tool_in_a_closed_folder(stage: Stage) -> None:
    """Tools need no right to write where they stand."""
    place = Path("/")
    stage.call("compare", f"a={stage.world.whole('student')}", cwd=place)


fault("G", "compare from a folder of the system", tool_in_a_closed_folder, succeeded)
