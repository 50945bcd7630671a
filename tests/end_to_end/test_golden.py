"""The golden record: what small runs and mistakes of every task gave when it was written.

It sees the library from outside, by `main.main([...])` and the files of the run folders, so that
code can be moved and each step shown to change nothing. To write the record anew, where something
was to change: `SIMCLR_TF_WRITE_GOLDEN=1 .venv/bin/python -m pytest tests/end_to_end/test_golden.py`

Training makes much of little: with another rounding (seen with TF_ENABLE_ONEDNN_OPTS=0) numbers
of trained runs differ widely. Runs are compared on the kind of machine of the record alone; on
another one write the record first, from the old code. Mistakes are compared everywhere.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shlex
import zipfile
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import main

pytestmark = [pytest.mark.scripts, pytest.mark.usefixtures("shallow")]

RECORD = Path(__file__).with_name("golden.json")
WRITE = os.environ.get("SIMCLR_TF_WRITE_GOLDEN") == "1"
CLASSES = ("blue", "green", "red")
NOTHING = "<nothing>"
VOID = 200  # value of the pixels that do not count

# As small as the contract allows: 4 channels, 16 pixels, 8 images a step.
SMALL = "--batch_size=8 --precision=float32 --num_epochs=2"
TINY = f"{SMALL} --width_multiplier=0.0625"
PRETRAIN = f"--task=pretrain --dataset=folder:pictures {TINY} --zdim=8"
CLASSIFY = f"--task=classification --dataset=folder:pictures --pretrain_save_path=pretrain {SMALL}"
SEGMENT = (
    f"--task=segmentation --dataset=folder:scenes --pretrain_save_path=pretrain {SMALL} "
    f"--crop_size=16 --ignore_label={VOID} --batch_size=4"
)
OF_RUN = "--pretrain_save_path=pretrain --precision=float32"

# name -> (run folder, command); in this order, each may use the runs before it.
RUNS = {
    "help": ("", "--help"),
    "pretrain": (
        "pretrain",
        f"{PRETRAIN} --pretrain_save_path=pretrain --val_fraction=0.25 --eval_every_epochs=1",
    ),
    "pretrain_microbatches": (
        "micro",
        f"{PRETRAIN} --pretrain_save_path=micro --microbatch_size=4 --max_steps=3",
    ),
    "pretrain_adamw_on_device": (
        "device",
        f"{PRETRAIN} --pretrain_save_path=device --optimizer=adamw --learning_rate=0.01 "
        "--augment_on=device --max_steps=3 --rotate --noise --cutout",
    ),
    "pretrain_stopped": ("stopped", f"{PRETRAIN} --pretrain_save_path=stopped --max_steps=2"),
    "pretrain_resumed": ("stopped", f"{PRETRAIN} --pretrain_save_path=stopped --resume"),
    "classification_frozen": ("frozen", f"{CLASSIFY} --finetune_save_path=frozen --freeze"),
    "classification_whole": (
        "whole",
        f"{CLASSIFY} --finetune_save_path=whole --label_fraction=0.5 --include_nonlinearity",
    ),
    "segmentation": ("masks", f"{SEGMENT} --finetune_save_path=masks"),
    "segmentation_frozen": (
        "masks_frozen",
        f"{SEGMENT} --finetune_save_path=masks_frozen --freeze --dice_weight=1 "
        "--class_weights=balanced",
    ),
    "evaluate": (
        "evaluated",
        f"--task=evaluate {OF_RUN} --finetune_save_path=evaluated "
        "--protocols=knn,logreg,baselines,health",
    ),
    "embed": (
        "embedded",
        f"--task=embed {OF_RUN} --finetune_save_path=embedded --with_z --index",
    ),
    "predict_classes": (
        "predicted",
        "--task=predict --dataset=folder:pictures --finetune_save_path=whole "
        "--predict_save_path=predicted --precision=float32",
    ),
    "predict_masks": (
        "predicted_masks",
        "--task=predict --dataset=folder:scenes/images --finetune_save_path=masks "
        "--predict_save_path=predicted_masks --precision=float32",
    ),
    "export_safetensors": (
        "export_safetensors",
        "--task=export --format=safetensors --pretrain_save_path=pretrain "
        "--export_path=export_safetensors",
    ),
    "export_keras": (
        "export_keras",
        "--task=export --format=keras --export_of=model --finetune_save_path=whole "
        "--export_path=export_keras",
    ),
    "check": (
        "checked",
        "--task=check --precision=float32 --dataset=folder:pictures --finetune_save_path=checked",
    ),
    "check_damaged": (
        "checked_2",
        "--task=check --precision=float32 --dataset=folder:torn --finetune_save_path=checked_2",
    ),
}

NEW = "--pretrain_save_path=new"
FINE = "--finetune_save_path=new"
MISTAKES = {
    "unknown_flag": "--task=pretrain --temprature=0.1",
    "unknown_flag_off": "--task=pretrain --no-temperature",
    "word_without_dashes": "pretrain",
    "flag_without_value": "--task=pretrain --batch_size",
    "unknown_task": "--task=pretain",
    "unknown_dataset": f"--task=pretrain --dataset=cifar11 {NEW}",
    "text_for_a_number": f"--task=pretrain --batch_size=many {NEW}",
    "fraction_for_an_integer": f"--task=pretrain --batch_size=2.5 {NEW}",
    "number_out_of_bounds": f"--task=pretrain --temperature=0 {NEW}",
    "probability_out_of_bounds": f"--task=pretrain --flip_prob=1.5 {NEW}",
    "unknown_choice": f"--task=pretrain --optimizer=adan {NEW}",
    "text_for_a_switch": f"--task=classification --freeze=maybe {FINE}",
    "size_of_three_numbers": f"--task=pretrain --input_size=1x2x3 {NEW}",
    "size_too_small": f"--task=pretrain --crop_size=4 {NEW}",
    "empty_path": "--task=pretrain --pretrain_save_path=",
    "resume_and_overwrite": f"--task=pretrain --resume --overwrite {NEW}",
    "two_data_sets": f"--task=pretrain --cifar10 --dataset=shapes {NEW}",
    "list_and_data_set": f"--task=pretrain --dataset=cifar10 --train_file_path=good.txt {NEW}",
    "microbatch_no_divisor": f"--task=pretrain --batch_size=8 --microbatch_size=3 {NEW}",
    "rate_for_a_frozen_encoder": f"{CLASSIFY} --freeze --encoder_learning_rate=0.1 {FINE}",
    "bad_address": f"--task=pretrain --data_service=localhost:5050 {NEW}",
    "service_on_device": (
        f"--task=pretrain --data_service=grpc://localhost:5050 --augment_on=device {NEW}"
    ),
    "folder_missing": f"{PRETRAIN} --dataset=folder:nowhere {NEW}",
    "folder_empty": f"{PRETRAIN} --dataset=folder:empty {NEW}",
    "folder_without_masks": f"{SEGMENT} --dataset=folder:pictures {FINE}",
    "folder_without_classes": f"{CLASSIFY} --dataset=folder:scenes/images {FINE}",
    "folder_of_sizes": f"{PRETRAIN} --dataset=folder:sizes {NEW}",
    "image_damaged": f"{PRETRAIN} --dataset=folder:torn {NEW}",
    "image_too_large": f"{PRETRAIN} --max_pixels=100 {NEW}",
    "npz_missing": f"{PRETRAIN} --dataset=npz:nowhere.npz {NEW}",
    "npz_without_images": f"{PRETRAIN} --dataset=npz:strange.npz {NEW}",
    "channels_of_a_folder": f"{PRETRAIN} --channels=5 {NEW}",
    "list_missing": f"{PRETRAIN} --dataset=shapes --train_file_path=nowhere.txt {NEW}",
    "list_with_bad_labels": f"--task=classification --train_file_path=bad.txt {SMALL} {FINE}",
    "list_without_labels": f"--task=classification --train_file_path=bare.txt {SMALL} {FINE}",
    "list_with_missing_files": f"--task=pretrain --train_file_path=gone.txt {TINY} {NEW}",
    "pattern_without_group": f"{CLASSIFY} --label_pattern=x {FINE}",
    "too_few_classes": f"{CLASSIFY} --num_classes=2 {FINE}",
    "batch_too_large": f"{PRETRAIN} --batch_size=99 {NEW}",
    "nothing_left_to_validate": f"{PRETRAIN} --val_fraction=0.99 {NEW}",
    "several_reasons": f"{PRETRAIN} --dataset=folder:sizes --batch_size=99 {NEW}",
    "run_missing": f"{CLASSIFY} --pretrain_save_path=nowhere --init_weights=nowhere {FINE}",
    "run_of_another_task": (
        "--task=predict --dataset=folder:pictures --init_weights=pretrain --predict_save_path=new"
    ),
    "run_folder_finished": f"{PRETRAIN} --pretrain_save_path=pretrain",
    "run_folder_not_ours": f"{CLASSIFY} --init_weights=foreign {FINE}",
    "features_not_ours": f"--task=embed {OF_RUN} --finetune_save_path=foreign --overwrite",
    "run_of_a_later_format": f"--config=later/config.yaml {NEW}",
    "checkpoint_damaged": f"{CLASSIFY} --init_weights=later {FINE}",
    "resume_with_other_settings": (
        f"{PRETRAIN} --pretrain_save_path=stopped --resume --temperature=0.5"
    ),
    "resume_with_other_images": (
        f"{PRETRAIN} --pretrain_save_path=stopped --resume --dataset=folder:scenes/images"
    ),
    "resume_an_embedding": f"--task=embed {OF_RUN} --finetune_save_path=embedded --resume",
    "weights_of_another_depth": f"{CLASSIFY} --model=50 {FINE}",
    "weights_of_another_width": f"{CLASSIFY} --width_multiplier=1 {FINE}",
    "weights_missing": f"{CLASSIFY} --init_weights=nowhere.safetensors {FINE}",
    "weights_with_strange_names": f"{CLASSIFY} --init_weights=strange.npz {FINE}",
    "weights_damaged": f"{CLASSIFY} --init_weights=torn.safetensors {FINE}",
    "weights_pickled": f"{CLASSIFY} --init_weights=weights.pth {FINE}",
    "yaml_missing": "--config=nowhere.yaml",
    "yaml_damaged": "--config=damaged.yaml",
    "yaml_with_unknown_key": "--config=unknown.yaml",
    "yaml_with_bad_value": "--config=value.yaml",
    "yaml_with_a_list": "--config=list.yaml",
    "yaml_out_of_bounds": f"--config=bounds.yaml {NEW}",
    "protocol_unknown": f"--task=evaluate {OF_RUN} --protocols=knn,magic {FINE}",
    "share_out_of_bounds": f"--task=evaluate {OF_RUN} --label_fractions=0.1,2 {FINE}",
    "compare_one_run": f"--task=evaluate --compare=evaluated {FINE}",
    "export_nothing": "--task=export --pretrain_save_path=nowhere",
    "export_format_unknown": "--task=export --format=h5",
    "export_model_of_a_pretraining": (
        "--task=export --export_of=model --finetune_save_path=pretrain"
    ),
    "predict_nothing": "--task=predict --dataset=folder:pictures --finetune_save_path=nowhere",
}
COMMANDS = {**RUNS, **{f"mistake_{name}": ("", text) for name, text in MISTAKES.items()}}

# What differs from run to run or machine to machine, and what stands for it.
VOLATILE = [
    (r"\d+ of \d+ images  .* left\n?", ""),  # a line that only a slow machine prints
    (r"computes on .*", "computes on <device>"),
    (r"events\.out\.tfevents\.\S+", "events"),
    (r"simclr_tf: \d+\.\d+\.\d+", "simclr_tf: <version>"),
    (r"simclr_tf \d+\.\d+\.\d+", "simclr_tf <version>"),
    (r"[\d.,]+ images/s", "<n> images/s"),
    (r"[\d.,]+ (s|seconds|minutes|ms)\b", r"<n> \1"),
    (r"[\d.,]+ (KiB|MiB|GiB|KB|MB|GB)\b", r"<n> \1"),
    (r"\d{4}-\d\d-\d\d([ T][\d:.]+)?", "<date>"),
    (r"process \d+", "process <n>"),
]
VOLATILE_KEYS = re.compile(
    r"versions|device|.*seconds.*|.*_per_second|peak_memory_bytes|host|date|time"
)


# -- what the commands find --


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_pictures(rng: np.random.Generator) -> None:
    """Three classes by colour, the same in two sizes, and two that are torn."""
    for channel, name in enumerate(CLASSES):
        for i in range(12):
            pixels = rng.integers(0, 100, (16, 16, 3))
            pixels[..., 2 - channel] += 120
            save(Path(f"pictures/{name}/{i:02d}.png"), pixels)
            save(Path(f"sizes/{name}/{i:02d}.png"), pixels[: 12 + i % 4])
            save(Path(f"torn/{name}/{i:02d}.png"), pixels)
    torn = Path("torn/red/05.png")
    torn.write_bytes(torn.read_bytes()[:200])
    Path("torn/red/06.png").write_bytes(b"no image")


def write_scenes(rng: np.random.Generator) -> None:
    """A bright square on a dark ground, and masks with a row that does not count."""
    for i in range(14):
        image, mask = rng.integers(0, 90, (24, 28, 3)), np.zeros((24, 28))
        top, left = rng.integers(2, 12, 2)
        image[top : top + 10, left : left + 10] += 150
        mask[top : top + 10, left : left + 10] = 1
        mask[0] = VOID
        save(Path(f"scenes/images/{i:02d}.png"), image)
        save(Path(f"scenes/masks/{i:02d}.png"), mask)


def write_mistaken_files() -> None:
    paths = [f"pictures/{name}/{i:02d}.png" for name in CLASSES for i in range(12)]
    texts = {
        "good.txt": "\n".join(f"{path},{i // 12}" for i, path in enumerate(paths)),
        "bad.txt": "\n".join(f"{path},{'x' if i == 3 else -i}" for i, path in enumerate(paths)),
        "bare.txt": "\n".join(paths),
        "gone.txt": "\n".join([*paths, "pictures/red/99.png"]),
        "damaged.yaml": "task: [pretrain\nseed: 1\n",
        "unknown.yaml": "task: pretrain\ntemprature: 0.1\n",
        "value.yaml": "task: pretrain\nbatch_size: many\n",
        "list.yaml": "- task\n- pretrain\n",
        "bounds.yaml": "task: pretrain\ntemperature: 0\n",
        "torn.safetensors": "no weights",
        "weights.pth": "no weights",
        "foreign/features.npz": "not of a run",
        "later/config.yaml": "run_folder:\n  format: 99\n  simclr_tf: 9.9.9\n\ntask: pretrain\n",
        "later/checkpoints/step-000000001.safetensors": "of later",
        "empty/nested/.keep": "",
    }
    for name, text in texts.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    np.savez("strange.npz", strange=np.zeros((3, 4), np.float32))


# -- what a command leaves --


def run(folder: str, command: str, root: Path) -> dict:
    """Runs a command; returns all that is compared."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main(shlex.split(command))
    said = {"exit code": code}
    said |= {"stdout": scrub(out.getvalue(), root), "stderr": scrub(err.getvalue(), root)}
    return said | (look_into(Path(folder), root) if folder else {})


def scrub(text: str, root: Path) -> list[str]:
    """Returns the lines of a text without what differs from run to run."""
    text = text.replace(str(root.resolve()), "<tmp>").replace(str(root), "<tmp>")
    for pattern, stand_in in VOLATILE:
        text = re.sub(pattern, stand_in, text)
    return text.splitlines()


def look_into(folder: Path, root: Path) -> dict:
    """Returns what a run folder holds: names, texts, numbers."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = scrub("\n".join(path.relative_to(folder).as_posix() for path in files), root)
    found: dict = {"files": sorted(set(names))}
    for name in ("config.yaml", "model.json", "README.md"):
        if (folder / name).exists():
            found[name] = scrub((folder / name).read_text(), root)
    if (folder / "results.json").exists():
        results = json.loads((folder / "results.json").read_text())
        found["results.json"] = scrub_values(results, root)
    for path in sorted(folder.glob("*.csv")):
        found[path.name] = read_table(path, root)
    for path in newest_arrays(files):
        found[f"arrays of {path.relative_to(folder).as_posix()}"] = sum_up(read_arrays(path))
    for path in sorted(folder.glob("masks/**/*.png")):
        pixels, counts = np.unique(np.asarray(Image.open(path)), return_counts=True)
        found[f"pixels of {path.name}"] = " ".join(
            f"{p}:{n}" for p, n in zip(pixels, counts, strict=True)
        )
    return found


def scrub_values(value: object, root: Path) -> object:
    """Returns what JSON holds without what differs from run to run."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not VOLATILE_KEYS.fullmatch(k)}
        return {key: scrub_values(item, root) for key, item in kept.items()}
    if isinstance(value, list):
        return [scrub_values(item, root) for item in value]
    return "\n".join(scrub(value, root)) if isinstance(value, str) else value


def read_table(path: Path, root: Path) -> dict[str, list]:
    """Returns the columns of a table, numbers as such."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if not VOLATILE_KEYS.fullmatch(name)] if rows else []
    return {name: [scrub_values(number(row[name]), root) for row in rows] for name in names}


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def newest_arrays(files: list[Path]) -> list[Path]:
    """The files with arrays; of the checkpoints in a folder the newest of each kind."""
    newest = {}
    for path in files:
        if path.suffix in (".npz", ".npy", ".safetensors", ".keras"):
            newest[path.parent, re.sub(r"\d+", "", path.name)] = path
    return list(newest.values())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".keras":
        return read_keras(path)
    if path.suffix == ".npy":
        return {"array": np.load(path)}
    if path.suffix == ".npz":
        return dict(np.load(path))
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    kinds = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
    arrays = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            flat = np.frombuffer(content[start + first : start + last], kinds[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"])
    return arrays


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Returns the weights in Keras' own format, HDF5 in a zip file."""
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    names: list[str] = []
    with h5py.File(content) as file:
        file.visit(names.append)
        return {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}


def sum_up(arrays: dict[str, np.ndarray]) -> dict:
    """Returns shape, sum and sum of sizes of each array, and the digest of all bytes."""
    digest, sums = hashlib.sha256(), {}
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
        sums[name] = {"shape": "x".join(map(str, array.shape)), "dtype": str(array.dtype)}
        if array.dtype.kind in "fiu":
            values = array.astype(np.float64)
            sums[name] |= {"sum": values.sum(), "abs_sum": np.abs(values).sum()}
    return {"sha256": digest.hexdigest(), **sums}


# -- comparison --


def this_machine() -> dict[str, str | int | None]:
    """What decides how numbers are rounded."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpu.read_text() if cpu.exists() else "")
    names = {"cpu": found[1] if found else "", "cores": os.cpu_count()}
    return names | {"tensorflow": version("tensorflow"), "numpy": version("numpy")}


def differences(was: object, now: object, where: str = "") -> list[str]:
    """Returns a line for each place, the keys that lead to it, where two records differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        pairs = [(f"{where} > {k}", was.get(k, NOTHING), now.get(k, NOTHING)) for k in was | now]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = [(f"{where} [{i}]", a, b) for i, (a, b) in enumerate(zip(was, now, strict=True))]
    elif was == now or (was != was and now != now):  # nan is nan
        return []
    else:
        return [f"{where}\n  expected {was!r}\n  got      {now!r}"]
    return [line for place, a, b in pairs for line in differences(a, b, place)]


@pytest.fixture(scope="module")
def today(shallow, tmp_path_factory) -> dict[str, dict]:
    """The record of this library, of all commands in their order; written where that is asked."""
    root = tmp_path_factory.mktemp("golden")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_pictures(rng)
        write_scenes(rng)
        write_mistaken_files()
        found = {name: run(*words, root) for name, words in COMMANDS.items()}
    # As JSON gives it back, so that both sides hold the same types.
    found = json.loads(json.dumps(found))
    if WRITE:
        write_record({"machine": this_machine(), "runs": found})
    return found


def write_record(record: dict) -> None:
    """Writes JSON of one line a text or array, so that differences can be read."""

    def join(block: re.Match) -> str:
        line = re.sub(r"\n *", " ", block[0])
        return line if len(line) < 200 else block[0]

    text = json.dumps(record, indent=1)
    numbers = r'\[[-\d.,\sNa]+\]|\{\s+"shape"[^{}]+\}'
    RECORD.write_text(re.sub(numbers, join, text) + "\n")


@pytest.fixture(scope="module")
def golden(today) -> dict:
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_gives_what_it_gave(name, today, golden):
    if name in RUNS and golden["machine"] != this_machine():
        pytest.skip(f"the record is one of {golden['machine']}")
    found = differences(golden["runs"].get(name, {}), today[name])
    if found:
        text = "\n".join(found[:20])
        pytest.fail(f"{name} has changed in {len(found)} places:\n{text}", pytrace=False)


def test_the_record_holds_these_runs_alone(golden):
    assert list(golden["runs"]) == list(COMMANDS)
