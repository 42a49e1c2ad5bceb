"""Sections about the training: tiles, curves, speed and memory, how it was made."""

from __future__ import annotations

import math
import shlex
from html import escape
from typing import Any

from pointcept.reports.charts import line_chart, short, sparkline
from pointcept.reports.page import Section, card, html_table, markdown_table, pair, percent
from pointcept.reports.run import Curve, Run

NO_CURVES = "There are no curves: the run has written no scalars."
FACTS = {"ms": "milliseconds of each loss", "matched": "share of voxels that both networks have"}
"""What stands behind the slash in names of facts."""
VAL, CLASSES = "val_quick/", "val_quick_iou/"


def summary_section(run: Run, notes: list[str]) -> Section:
    """The most important numbers, and what is missing."""
    facts = _tiles(run)
    tiles = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in facts.items())
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    missing = (
        f"<details{' open' if len(notes) < 3 else ''}><summary>What is missing</summary><ul>{listed}</ul></details>"
    )
    plain = markdown_table(["", ""], [[key, value] for key, value in facts.items()])
    if notes:
        plain += "\n\nWhat is missing:\n\n" + "\n".join(f"- {note}" for note in notes)
    return Section("Summary", f'<div class="tiles">{tiles}</div>{missing if notes else ""}', plain)


def _tiles(run: Run) -> dict[str, str]:
    facts: dict[str, str] = {}
    for kind in ("precise", "quick"):
        result = run.results.get(kind)
        if result is not None:
            present = f"{result['num_classes_present']} classes present"
            facts[f"mIoU {kind}, {present}"] = f"{percent(result.get(f'miou_present_{kind}'))} %"
            facts[f"accuracy {kind}"] = f"{percent(result.get(f'all_acc_{kind}'))} %"
    best = [value for _, value in run.curves.get(f"{VAL}miou_present", [])]
    if best:
        facts["best mIoU quick while training"] = f"{percent(max(best))} %"
    parameters = (run.result or {}).get("parameters")
    if parameters:
        facts["parameters"] = f"{parameters / 1e6:.2f} M"
    if run.iterations:
        facts["iterations"] = f"{run.iterations:,}"
    step, peak = _median(run, "time/step"), run.last("memory/peak_gib")
    if step is not None:
        facts["per iteration, median"] = f"{step:.3f} s" if step < 100 else f"{step:.0f} s"
    if peak is not None:
        facts["peak GPU memory"] = f"{peak:.1f} GiB"
    return facts


def _median(run: Run, name: str) -> float | None:
    values = sorted(value for _, value in run.curves.get(name, []) if math.isfinite(value))
    return values[len(values) // 2] if values else None


def losses_section(run: Run) -> Section:
    """Every term of the loss, weighted and raw, and the norm of the gradient."""
    train = run.named("train/")
    if not train:
        return Section("Losses", f'<p class="note">{NO_CURVES}</p>', NO_CURVES)
    weighted = {name: c for name, c in train.items() if "/" not in name and name != "grad_norm"}
    raw = {name.removesuffix("/raw"): c for name, c in train.items() if name.endswith("/raw")}
    facts = {name: c for name, c in train.items() if "/" in name and not name.endswith("/raw")}
    total = {"loss": weighted.pop("loss")} if "loss" in weighted else {}
    validated = {k: c for k, c in run.named(VAL).items() if "loss" in k.lower()}
    cards = [
        card(line_chart(total | {f"{k} (val quick)": c for k, c in validated.items() if k == "loss"}), "loss"),
        card(line_chart(weighted), "terms, weighted as they are added"),
        card(line_chart(raw), "terms before their weights"),
        card(line_chart({"norm": train["grad_norm"]}) if "grad_norm" in train else "", "gradient before clipping"),
    ]
    groups: dict[str, dict[str, Curve]] = {}
    for name, curve in facts.items():  # kld/ms and topo/ms are one chart
        term, _, fact = name.rpartition("/")
        groups.setdefault(fact, {})[term] = curve
    cards += [card(line_chart(curves), FACTS.get(fact, fact)) for fact, curves in groups.items()]
    sparks = [_spark(name, c) for name, c in weighted.items()] if len(weighted) > 1 else []
    own = f'<h3 style="margin-top:18px">Each term on a scale of its own</h3><div class="sparks">{"".join(sparks)}</div>'
    head = ["term", "first", "last", "lowest"]
    rows = [
        [name, *(f"{value:.4g}" for value in (c[0][1], c[-1][1], min(v for _, v in c)))] for name, c in train.items()
    ]
    return Section("Losses", pair(*cards) + (own if sparks else ""), markdown_table(head, rows))


def _spark(name: str, curve: Curve) -> str:
    values = [value for _, value in curve]
    drawn = sparkline(curve, min(values), max(values))
    return f'<div class="card"><b>{short(values[-1])}</b>{escape(name)}{drawn}</div>'


def evaluations_section(run: Run) -> Section:
    """Means of each evaluation, and the IoU of each class."""
    means = {name: c for name, c in run.named(VAL).items() if name in ("miou_present", "macc_present", "all_acc")}
    if not means:
        text = "No evaluation has been written while training."
        return Section("Evaluations", f'<p class="note">{text}</p>', text)
    labels = {"miou_present": "mIoU", "macc_present": "mean accuracy", "all_acc": "accuracy"}
    chart = card(line_chart({labels[k]: c for k, c in means.items()}, percent=True), "quick evaluations [%]")
    rates = card(line_chart(run.named("lr/")), "learning rate")
    sparks = "".join(
        f'<div class="card"><b>{percent(c[-1][1], 1)}</b>{escape(name)}{sparkline(c)}</div>'
        for name, c in run.named(CLASSES).items()
    )
    note = '<h3 style="margin-top:18px">IoU of each class, quick, from 0 to 100 % over the iterations</h3>'
    html = pair(chart, rates) + (f'{note}<div class="sparks">{sparks}</div>' if sparks else "")
    steps = [step for step, _ in means["miou_present"]] if "miou_present" in means else []
    shown = [dict(c) for c in means.values()]
    rows = [[str(step), *(percent(values.get(step)) for values in shown)] for step in steps]
    plain = markdown_table(["iteration", *(f"{labels[k]} quick [%]" for k in means)], rows)
    return Section("Evaluations", html, plain)


def speed_section(run: Run) -> Section | None:
    """Time of iterations, waiting for data, memory."""
    times = run.named("time/")
    if not times and not run.named("memory/"):
        return None
    loop = {k: c for k, c in times.items() if k in ("step", "data")}
    names = {"step": "iteration", "data": "of this waiting for data"}
    seconds = card(line_chart({names[k]: c for k, c in loop.items()}), "seconds per iteration")
    peak = run.curves.get("memory/peak_gib")
    memory = card(line_chart({"peak": peak}) if peak else "", "GPU memory [GiB]")
    facts = [(f"median {names.get(k, k)} [s]", _median(run, f"time/{k}")) for k in times]
    facts += [("peak GPU memory [GiB]", run.last("memory/peak_gib"))]
    rows = [[name, f"{value:.3f}"] for name, value in facts if value is not None]
    return Section("Speed and memory", pair(seconds, memory), markdown_table(["", ""], rows))


def origin_section(run: Run) -> Section:
    """Command, commit, machine, versions, and the whole config."""
    env = run.environment
    rows = [[key, value] for key, value in _origin(run, env).items() if value]
    html = card(html_table([], [[escape(k), escape(v)] for k, v in rows], style="facts"))
    if run.config_text:
        html += f"<details><summary>The whole config</summary><pre>{escape(run.config_text)}</pre></details>"
    plain = markdown_table(["", ""], rows)
    if run.config_text:
        code = f"```python\n{run.config_text}\n```"
        plain += f"\n\n<details><summary>The whole config</summary>\n\n{code}\n\n</details>"
    return Section("How it was made", html, plain)


def _origin(run: Run, env: dict[str, Any]) -> dict[str, str]:
    git, packages = env.get("git") or {}, env.get("packages") or {}
    command, result = env.get("command"), run.result or {}
    commit = git.get("commit")
    machine = [env.get("platform"), ", ".join(str(gpu.get("name")) for gpu in env.get("gpus") or ()), env.get("device")]
    cores = env.get("cpu_count")
    return {
        "command": f"python {shlex.join(map(str, command))}" if isinstance(command, list) else "",
        "folder": str(run.folder),
        "commit": f"{commit}{' with local changes' if git.get('dirty') else ''}" if commit else "",
        "seed": "" if env.get("seed") is None else str(env["seed"]),
        "machine": ", ".join(str(part) for part in machine if part) + (f", {cores} CPU cores" if cores else ""),
        "processes": str(env.get("world_size") or ""),
        "versions": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "weights tested": str(result.get("weight") or ""),
        "network": str((run.config.get("model") or {}).get("type") or ""),
    }
