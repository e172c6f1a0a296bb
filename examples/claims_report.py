"""Tables and figures of the study of the paper's claims, from its raw runs alone.

`examples/claims.py --tables` runs it; it trains nothing. It writes `README.md` and figures beside
the folder `runs`.
"""

import json

import numpy as np
from matplotlib.figure import Figure

import keras_multimodel as kmm

MEASURE = "log_perplexity"
CHOICE = ", dropout "


def records(folder):
    """Returns the runs of a folder, by variant and seed."""
    runs = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(runs, key=lambda r: (r["configuration"]["variant"], r["configuration"]["seed"]))


def table(heads, rows):
    """Returns a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def interval(found, digits=3):
    """Returns a difference with its interval and what it says."""
    if found.count < 2:
        return f"{found.mean:+.{digits}f}"
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]" + (
        "" if found.verdict == "cannot tell" else f" **{found.verdict}**"
    )


def joint_and_single(folder):
    """Yields the sections of joint against single."""
    results = kmm.ablation.Results(records(folder), "joint")
    tasks = [v.removesuffix(" alone") for v in results.variants if v.endswith(" alone")]
    rows = []
    for task in tasks:
        prefix = f"{task}_"
        measures = [
            m for m in results.metrics if m.startswith(prefix) and not m.endswith("_validation")
        ]
        for measure in measures:
            row = [
                task,
                measure.removeprefix(prefix),
                f"{np.mean(results.values('joint', measure)):.3f}",
            ]
            for suffix in (" alone", " alone, equal size"):
                if f"{task}{suffix}" not in results.variants:
                    row += ["", ""]
                    continue
                values = results.values(f"{task}{suffix}", measure)
                found = results.difference("joint", measure, reference=f"{task}{suffix}")
                row += [f"{np.mean(values):.3f}", interval(found)]
            rows.append(row)
    heads = [
        "task",
        "measure",
        "joint",
        "alone",
        "joint - alone",
        "alone, equal size",
        "joint - that",
    ]
    yield "Joint against single", table(heads, rows)
    yield "Sizes", results.markdown([])


def ablation(folder):
    """Yields the sections of the ablation, and its figure."""
    results = kmm.ablation.Results(records(folder), "all blocks")
    measures = [m for m in results.metrics if m.endswith(MEASURE)]
    short = [m.removesuffix(f"_{MEASURE}") for m in measures]
    rows = []
    for variant in results.variants:
        if variant == results.reference:
            cells = [f"{np.mean(results.values(variant, m)):.3f}" for m in measures]
        else:
            cells = [interval(results.difference(variant, m)) for m in measures]
        rows.append([variant, *cells])
    results.plot(measures).savefig(folder.parents[1] / "ablation.png", dpi=110)
    yield "Ablation", table([f"{MEASURE}, minus all blocks", *short], rows)
    yield "Sizes of the ablation", results.markdown([]) + "\n\n![Ablation](ablation.png)"


def chosen(runs, task):
    """Keeps, of each variant, the runs with the dropout that validation data likes best."""
    results = kmm.ablation.Results(runs)
    best = {}
    for variant in results.variants:
        label, _, dropout = variant.partition(CHOICE)
        score = np.mean(results.values(variant, f"{task}_validation"))
        best[label] = min(best.get(label, (np.inf, "")), (score, dropout))
    kept = []
    for run in runs:
        label, _, dropout = run["configuration"]["variant"].partition(CHOICE)
        if dropout == best[label][1]:
            kept.append({**run, "configuration": {**run["configuration"], "variant": label}})
    return kept, {label: dropout for label, (_, dropout) in best.items()}


def little_data(folder):
    """Yields the table of little data, and the curve of the gain over the number of examples."""
    rows, curves = [], {}
    places = [path.name.rsplit("_", 1) for path in folder.iterdir() if any(path.glob("*.json"))]
    for task, count in sorted(places, key=lambda place: (place[0], int(place[1]))):
        runs, dropouts = chosen(records(folder / f"{task}_{count}"), task)
        if "alone" not in dropouts:
            continue
        results = kmm.ablation.Results(runs, "alone")
        alone = np.mean(results.values("alone", f"{task}_{MEASURE}"))
        for variant in results.variants[1:]:
            found = results.difference(variant, f"{task}_{MEASURE}")
            other = results.difference(variant, f"{task}_accuracy")
            shown = [f"{alone:.3f}", interval(found), interval(other)]
            both = f"{dropouts['alone']} / {dropouts[variant]}"
            rows.append([task, count, variant, *shown, both, found.count])
            curves.setdefault(task, {}).setdefault(variant, []).append((int(count), found))
    plot_curves(curves).savefig(folder.parents[1] / "little_data.png", dpi=110)
    heads = ["task", "examples", "trained", f"{MEASURE} alone", "difference", "accuracy"]
    text = table([*heads, "dropout alone / joint", "seeds"], rows)
    yield "Little data", text + "\n\n![Little data](little_data.png)"


def plot_curves(curves):
    """Plots the difference from the single model over the number of examples."""
    figure = Figure(figsize=(1 + 4 * max(1, len(curves)), 3.4), layout="constrained")
    axes = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for axis, (task, by_variant) in zip(axes, curves.items()):
        for shift, (variant, points) in enumerate(by_variant.items()):
            counts = [count * 1.06**shift for count, _ in points]
            half = [f.high - f.mean if np.isfinite(f.high) else 0.0 for _, f in points]
            means = [f.mean for _, f in points]
            axis.errorbar(counts, means, half, marker="o", capsize=3, label=variant)
        axis.axhline(0.0, color="gray", lw=0.8)
        axis.set(title=task, xscale="log", xlabel="training examples")
    axes[0].set_ylabel(f"{MEASURE}, minus alone")
    axes[0].legend(fontsize="small")
    return figure


def transfer(folder):
    """Yields the matrix of who helps whom, and how often whole runs agree with it."""
    matrix = kmm.transfer.Matrix(kmm.ablation.Results(records(folder)))
    matrix.plot().savefig(folder.parents[1] / "transfer.png", dpi=110)
    yield "Who helps whom", matrix.markdown() + "\n\n![Who helps whom](transfer.png)"
    full = records(folder.parent / "pairs") if (folder.parent / "pairs").exists() else []
    if not any(" + " in run["configuration"]["variant"] for run in full):
        return
    for run in full:
        scores = {k: v for k, v in run["metrics"].items() if k.endswith(MEASURE)}
        run["metrics"] = {k.removesuffix(f"_{MEASURE}"): v for k, v in scores.items()}
    whole = kmm.transfer.Matrix(kmm.ablation.Results(full))
    common = [pair for pair in matrix.gains if pair in whole.gains]
    told = [pair for pair in common if matrix.verdict(*pair) != "cannot tell"]
    right = [p for p in told if matrix.gains[p].mean * whole.gains[p].mean > 0]
    text = f"Of {len(common)} pairs, short runs left {len(common) - len(told)} open. "
    text += f"Of the other {len(told)}, whole runs have the same sign for {len(right)}."
    yield "Short runs against whole ones", text + "\n\n" + whole.markdown()


SECTIONS = {
    "joint": joint_and_single,
    "ablation": ablation,
    "little_data": little_data,
    "transfer": transfer,
}


def write(results):
    """Writes tables and figures of the runs that are there."""
    parts = ["# Do the paper's claims hold?", "", "Made by `examples/claims.py --tables`."]
    parts += [
        "Intervals have 95 % (Student's t over paired seeds). Log-perplexity is in nats per "
        "target, lower is better; accuracy, BLEU, chrF and F1 are the better the higher."
    ]
    for name, section in SECTIONS.items():
        folder = results / "runs" / name
        if not any(folder.rglob("*.json")):
            continue
        for title, text in section(folder):
            parts += ["", f"## {title}", "", text]
    (results / "README.md").write_text("\n".join(parts) + "\n")
