"""The results as Markdown, to be pasted into a page of the site; imports no framework."""

from __future__ import annotations

from typing import Any

from gpu_parts.parts import COMPILERS, FORMATS, NETWORKS

Results = dict[str, Any]

ABSENT = "-"


def markdown(record: dict[str, Any]) -> str:
    """Returns all that was measured: the machine, tables, and what failed or was not run."""
    found = {name: part["results"] for name, part in record["parts"].items()}
    blocks = [
        _machine(found.get("machine", {}), record),
        _rates(found),
        _steps(found),
        _contrast(found.get("ntxent", {})),
        _caching(found.get("caching", {})),
        _agreement(found),
        _recipe(found.get("recipe", {})),
        _list("Failed", failures(record)),
        _list("Not run", [f"{name}: {why}" for name, why in record["skipped"].items()]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def failures(record: dict[str, Any]) -> list[str]:
    """Returns a line for each part that failed, with the errors of what it was made of."""
    lines = []
    for name, part in record["parts"].items():
        if not part["error"]:
            continue
        of_results = [
            f"{key}: {value['error']}"
            for key, value in part["results"].items()
            if isinstance(value, dict) and "error" in value
        ]
        printed = [line for line in part.get("printed", []) if line.strip()][-1:]
        lines.append(f"{name} {part['error']}: {'; '.join(of_results or printed)}")
    return lines


def _machine(machine: Results, record: dict[str, Any]) -> str:
    packages = machine.get("packages", {})
    versions = [f"{n} {packages[n]}" for n in ("tensorflow", "keras", "torch") if n in packages]
    devices = ", ".join(machine.get("gpus", [])) or "no GPU"
    form = "float32 (TF32)" if machine.get("tf32") else "float32"
    lines = [
        f"{devices} (nvidia-smi: {machine.get('nvidia_smi', 'unknown')}); "
        f"{machine.get('cores')} cores {machine.get('processor')}; Python {machine.get('python')}, "
        f"{', '.join(versions)}; {record.get('date')}.",
        f"Products of large matrices: {machine.get('bfloat16_tflops', ABSENT)} TFLOP/s in bfloat16,"
        f" {machine.get('float32_tflops', ABSENT)} in {form}. Host to device: "
        f"{machine.get('to_device_gb_per_second', ABSENT)} GB/s.",
    ]
    if record["quick"]:
        lines.insert(0, "Tiny sizes (`--quick`): these numbers say nothing of speed.")
    return "\n".join(lines)


def _rates(found: dict[str, Results]) -> str:
    """Images per second of our step, and of training, a row for each way to run it."""
    rows = []
    for depth in NETWORKS:
        for form, policy in FORMATS.items():
            for compiler in COMPILERS:
                step = found.get(f"step_{depth}_{compiler}", {}).get(f"{policy} {compiler}", {})
                by_place = [
                    found.get(f"training_{depth}_{form}_{compiler}_{place}", {})
                    for place in ("host", "device")
                ]
                cells = [_rate(results) for results in (step, *by_place)]
                if any(cell != ABSENT for cell in cells):
                    precision = step.get("precision") or by_place[0].get("results_precision", form)
                    precision += " (TF32)" if step.get("tf32") and precision == "float32" else ""
                    kind = [f"ResNet-{depth}", precision, "XLA" if compiler == "xla" else "no XLA"]
                    peaks = [_gb(results.get("peak_bytes")) for results in (step, *by_place)]
                    rows.append([*kind, *cells, " / ".join(peaks)])
    for depth in NETWORKS:
        for dtype, results in found.get(f"pipeline_{depth}", {}).items():
            where = [f"views of ResNet-{depth} alone", dtype, "host"]
            rows.append([*where, ABSENT, _rate(results), ABSENT, ABSENT])
    head = ["images/s, two views each", "precision", "XLA", "step alone", "fed by the host"]
    return _table([*head, "views on the device", "peak GB of the three"], rows)


def _steps(found: dict[str, Results]) -> str:
    """The step alone with its first losses, ours and torch's."""
    rows = []
    for name, results in found.items():
        side, _, rest = name.partition("_")
        if side not in ("step", "torch"):
            continue
        if "missing" in results:
            rows.append([name, results["missing"], *[ABSENT] * 4])
        for variant, value in results.items():
            if isinstance(value, dict) and "first_losses" in value:
                losses = ", ".join(f"{loss:.3f}" for loss in value["first_losses"])
                where = "PyTorch" if side == "torch" else "ours"
                tflops = str(value.get("tflops", ABSENT))
                peak = _gb(value.get("peak_bytes"))
                network = f"ResNet-{rest.partition('_')[0]}"
                rows.append([f"{where}, {network}", variant, _rate(value), tflops, peak, losses])
    return _table(["step", "variant", "images/s", "TFLOP/s", "peak GB", "first losses"], rows)


def _contrast(results: Results) -> str:
    rows = [
        [f"{key} images" if "tile" not in key else f"{key}, {results['swept']} images", *cells]
        for key, value in results.items()
        if (cells := _times(value))
    ]
    text = _table(["NT-Xent", "ms, forward and backward", "peak GB"], rows)
    if text and "tf32" in results.get("agreement", {}):
        apart = results["agreement"]
        differences = "; ".join(
            f"{name} loss {apart[name]['loss']:.1e}, gradient {apart[name]['gradient']:.1e}"
            for name in ("tf32", "float32")
        )
        text += f"\n\nStreaming against dense, {apart['images']} images, relative: {differences}."
    return text


def _times(value: Any) -> list[str]:
    if not isinstance(value, dict) or "milliseconds" not in value:
        return []
    return [_spread(value["milliseconds"], 2), _gb(value["peak_bytes"])]


def _caching(results: Results) -> str:
    names = {
        "small": f"a batch of {results.get('microbatch_size')}",
        "cached": f"{results.get('batch_size')} by {results.get('microbatch_size')}",
        "large": f"{results.get('batch_size')} at once",
    }
    rows = [
        [text, _rate(results[name]), _gb(results[name].get("peak_bytes"))]
        for name, text in names.items()
        if name in results
    ]
    return _table(["gradient caching, ResNet-18", "images/s", "peak GB"], rows)


def _agreement(found: dict[str, Results]) -> str:
    lines = [
        f"Losses in float32 against the CPU's, {key}: the first {value['first_apart']:.1e} apart, "
        f"at most {value['most_apart']:.1e} in {len(value['losses'])} steps."
        for key, value in found.get("losses", {}).items()
        if isinstance(value, dict) and "first_apart" in value
    ]
    bits = found.get("deterministic", {}).get("bits")
    if bits:
        lines.append(
            f"`--deterministic` twice: {bits['differing']} of {bits['arrays']} arrays differ; "
            f"{found['deterministic']['run 2']['images_per_second']} images/s."
        )
    return "\n".join(lines)


def _recipe(results: Results) -> str:
    if "results_knn_accuracy" not in results:
        return ""
    others = ", ".join(f"{name} {value}" for name, value in results["results_baselines"].items())
    return (
        f"`configs/cifar10.yaml`, {results['epochs']} epochs of {results['data']}: kNN accuracy "
        f"{results['results_knn_accuracy']} ({others}), "
        f"{_spread(results['epoch_seconds'], 2)} s an epoch, {_rate(results)} images/s."
    )


def _list(title: str, lines: list[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {line}" for line in lines)]) if lines else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rate(results: Any) -> str:
    known = isinstance(results, dict) and "images_per_second" in results
    return _spread(results["images_per_second"], 0) if known else ABSENT


def _spread(value: dict[str, float], digits: int) -> str:
    low, high = (f"{value[key]:,.{digits}f}" for key in ("min", "max"))
    return f"{value['median']:,.{digits}f} ({low} to {high})"


def _gb(count: int | None) -> str:
    return ABSENT if count is None else f"{count / 1e9:.2f}"
