"""The list of what is measured on a GPU, the most valuable first; imports no framework."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

Options = dict[str, Any]

NETWORKS: dict[int, Options] = {
    18: {"depth": 18, "stem": "small", "width_multiplier": 1.0, "size": 32, "batch_size": 512},
    50: {"depth": 50, "stem": "imagenet", "width_multiplier": 1.0, "size": 224, "batch_size": 256},
}
EPOCH_STEPS = {18: 40, 50: 10}
TINY: Options = {
    "depth": 18,
    "stem": "small",
    "width_multiplier": 0.0625,
    "size": 16,
    "batch_size": 8,
}
# What each number format is called in a part's name, and the policy behind it: "16bit" is what
# training chooses for the device, bfloat16 on every current GPU.
FORMATS = {"16bit": "auto", "float32": "float32"}
COMPILERS = {"xla": "true", "plain": "false"}
PLACES = ("host", "device")  # where the views are made


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the benchmark.

    Attributes:
        name: Its key in the results; words before the first "_" are the group it belongs to.
        work: "module.function" of `gpu_parts`, called with a `Report` and the options.
        options: What the function is told.
        on_host: The GPU is hidden from it.
    """

    name: str
    work: str
    options: Options
    on_host: bool = False


def list_parts(*, quick: bool, batch_sizes: tuple[int, int], npz: str) -> list[Part]:
    """Returns all parts in the order in which they are run.

    Args:
        quick: Tiny sizes, and one part of each kind: they try the script out.
        batch_sizes: Images per step of ResNet-18 and of ResNet-50.
        npz: Path of an .npz file for the recipe; "": drawn shapes.
    """
    if quick:
        return _tiny_parts(npz)
    networks = {
        depth: network | {"batch_size": size}
        for (depth, network), size in zip(NETWORKS.items(), batch_sizes, strict=True)
    }
    first = [("16bit", "xla", place) for place in PLACES]
    others = itertools.product(FORMATS, COMPILERS, PLACES)
    later = [combination for combination in others if combination not in first]
    small, large = (
        {"step": _step(depth, network), "training": _trainings(depth, network)}
        for depth, network in networks.items()
    )
    return [
        Part("machine", "machine.describe", {"matrix_side": 8192, "copy_megabytes": 256}),
        small["step"]["xla"],
        *(small["training"][combination] for combination in first),
        Part("torch_18", "step.measure", _torch(networks[18])),
        large["step"]["xla"],
        *(large["training"][combination] for combination in first),
        Part("losses", "agreement.losses", _losses(batch_size=64, width=1.0, size=32)),
        Part("deterministic", "agreement.deterministic", _deterministic(networks[18], steps=20)),
        Part("ntxent", "contrast.measure", _contrast([512, 1024, 2048, 4096, 8192, 16384], 4096)),
        Part("caching", "caching.measure", {"batch_size": 4096, "microbatch_size": 256}),
        Part("recipe", "training.follow_recipe", {"npz": npz, "images": 25_600, "epochs": 5}),
        Part("torch_50", "step.measure", _torch(networks[50])),
        *(
            Part(f"pipeline_{depth}", "pipeline.measure", {"network": network}, on_host=True)
            for depth, network in networks.items()
        ),
        small["step"]["plain"],
        large["step"]["plain"],
        *(small["training"][combination] for combination in later),
        *(large["training"][combination] for combination in later),
    ]


def _tiny_parts(npz: str) -> list[Part]:
    contrast = _contrast([64, 128], 128) | {"tiles": [64, 128], "xla": "false"}
    losses = _losses(batch_size=16, width=0.0625, size=16)
    losses |= {"steps": 3, "variants": [[False, "false"]]}
    caching = {"batch_size": 16, "microbatch_size": 8, "width_multiplier": 0.0625, "size": 16}
    recipe = {"npz": npz, "images": 64, "epochs": 2}
    recipe["words"] = ["--batch_size=16", "--width_multiplier=0.0625"]
    trainings = [
        Part(
            f"training_18_float32_plain_{place}",
            "training.measure",
            _training(TINY, "float32", "plain", place, steps=4, epochs=2),
        )
        for place in PLACES
    ]
    parts = [
        Part("machine", "machine.describe", {"matrix_side": 64, "copy_megabytes": 1}),
        Part("step_18_plain", "step.measure", _step_options(TINY, ["float32 plain"])),
        *trainings,
        Part("torch_18", "step.measure", _torch(TINY, ["float32_channelslast"])),
        Part("losses", "agreement.losses", losses),
        Part("deterministic", "agreement.deterministic", _deterministic(TINY, steps=4)),
        Part("ntxent", "contrast.measure", contrast),
        Part("caching", "caching.measure", caching),
        Part("recipe", "training.follow_recipe", recipe),
        Part("pipeline_18", "pipeline.measure", {"network": TINY}, on_host=True),
    ]
    return [
        dataclasses.replace(part, options=part.options | {"quick": True, "seconds": 0.2})
        for part in parts
    ]


def _step_options(network: Options, variants: list[str], side: str = "ours") -> Options:
    return {"network": network, "variants": variants, "side": side}


def _step(depth: int, network: Options) -> dict[str, Part]:
    """Returns the parts of the step alone, by compiler: if XLA ends one, the other still counts."""
    return {
        compiler: Part(
            f"step_{depth}_{compiler}",
            "step.measure",
            _step_options(network, [f"{policy} {compiler}" for policy in FORMATS.values()]),
        )
        for compiler in COMPILERS
    }


def _torch(network: Options, variants: list[str] | None = None) -> Options:
    layout = "channelslast"
    # Compiling takes longest, and may end the part: it comes last.
    all_ = [f"bfloat16_{layout}", f"float32_{layout}", f"bfloat16_{layout}_compiled"]
    return _step_options(network, variants or all_, side="torch_resnet")


def _trainings(depth: int, network: Options) -> dict[tuple[str, str, str], Part]:
    steps = EPOCH_STEPS[depth]
    return {
        (form, compiler, place): Part(
            f"training_{depth}_{form}_{compiler}_{place}",
            "training.measure",
            _training(network, form, compiler, place, steps=steps, epochs=4),
        )
        for form, compiler, place in itertools.product(FORMATS, COMPILERS, PLACES)
    }


def _training(
    network: Options, form: str, compiler: str, place: str, *, steps: int, epochs: int
) -> Options:
    return {
        "network": network,
        "precision": FORMATS[form],
        "xla": COMPILERS[compiler],
        "augment_on": place,
        "steps": steps,
        "epochs": epochs,
    }


def _losses(*, batch_size: int, width: float, size: int) -> Options:
    return {
        "batch_size": batch_size,
        "width_multiplier": width,
        "size": size,
        "steps": 20,
        "variants": [[False, "true"], [False, "false"], [True, "true"]],  # TF32, XLA
    }


def _deterministic(network: Options, *, steps: int) -> Options:
    return {"network": network, "steps": steps}


def _contrast(sizes: list[int], swept: int) -> Options:
    return {"sizes": sizes, "swept": swept, "tiles": [512, 1024, 2048, 4096], "xla": "true"}
