"""Our ResNets under the names that torchvision and timm give theirs, in both directions.

stem_conv/kernel [7, 7, 3, 64]                    conv1.weight [64, 3, 7, 7]
stem_conv_norm/gamma                              bn1.weight
stage2_block1_conv1_norm/moving_mean              layer2.0.bn1.running_mean
stage2_block1_shortcut/kernel                     layer2.0.downsample.0.weight
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.models.resnet import DEPTHS, ENCODER_WIDTH

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]

LISTED = 20  # names that do not fit, in one message
# Both halves of a momentum pair hold an encoder; evaluation is of the one that is trained.
SECOND_COPIES = re.compile(r"momentum|teacher|target|ema\b|encoder_k\b")
COUNTER = "num_batches_tracked"

_WEIGHTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_OF_BACKBONE = re.compile(r"(conv1|bn1|layer\d+)\.")


@dataclasses.dataclass(frozen=True)
class Found:
    """An encoder that was found in a file.

    Attributes:
        arrays: Its arrays by torchvision's names.
        prefix: What stood before these in the file.
        left_aside: Number of the file's other arrays.
        settings: The settings of the encoder that they fit.
    """

    arrays: Arrays
    prefix: str
    left_aside: int
    settings: dict[str, object]


def torch_name(path: str) -> str:
    """Returns torchvision's name of an encoder's variable, such as `stem_conv/kernel`."""
    layer, _, weight = path.rpartition("/")
    layer, norm = layer.removesuffix("_norm"), layer.endswith("_norm")
    kind = "bn" if norm else "conv"
    if layer == "stem_conv":
        return f"{kind}1.{_WEIGHTS[weight]}"
    match = re.fullmatch(r"stage(\d)_block(\d+)_(?:conv(\d)|shortcut)", layer)
    if match is None:
        raise ValueError(f"Expected a variable that torchvision's ResNet has too, got {path}.")
    stage, block, number = match.groups()
    part = f"{kind}{number}" if number else f"downsample.{int(norm)}"
    return f"layer{stage}.{int(block) - 1}.{part}.{_WEIGHTS[weight]}"


def to_torch(variables: Mapping[str, np.ndarray]) -> Arrays:
    """Renames and transposes an encoder's arrays, `stem_conv/kernel` and so on, for torch."""
    return {
        torch_name(path): np.ascontiguousarray(_turn(array, (3, 2, 0, 1)))
        for path, array in variables.items()
    }


def from_torch(arrays: Arrays, shapes: Shapes, origin: str) -> Arrays:
    """Renames and transposes arrays of torchvision's names for our variables.

    Args:
        arrays: By torchvision's names.
        shapes: Of our variables, by path.
        origin: Where the arrays come from, for the message.

    Raises:
        UserError: Names or shapes differ; all are listed, up to a screen.
    """
    expected = {torch_name(path): _turn_shape(shape) for path, shape in shapes.items()}
    check_fit(expected, {name: array.shape for name, array in arrays.items()}, origin)
    return {path: _turn(arrays[torch_name(path)], (2, 3, 1, 0)) for path in shapes}


def check_fit(expected: Shapes, got: Shapes, origin: str) -> None:
    """Raises UserError with a list of what is missing, of another shape or not known."""
    wrong = [f"- missing {name} {shape}" for name, shape in expected.items() if name not in got]
    wrong += [
        f"- {name}: expected {shape}, got {got[name]}"
        for name, shape in expected.items()
        if name in got and tuple(got[name]) != shape
    ]
    wrong += [f"- unknown {name} {got[name]}" for name in got if name not in expected]
    if wrong:
        more = [f"... {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        shown = "\n".join(wrong[:LISTED] + more)
        raise UserError(
            f"Expected the weights of a plain ResNet in {origin}, got {len(wrong)} that do not "
            f"fit:\n{shown}\nPass the weights of torchvision's resnet18, resnet34 or resnet50, or "
            "of a network with their layers."
        )


def find_encoder(arrays: Arrays, origin: str) -> Found:
    """Finds the encoder among a file's arrays, whatever stands before its names.

    Args:
        arrays: By name, as a state dict of torch has them.
        origin: Where they come from, for the message.

    Raises:
        UserError: There is none, there are several, or it is none of our depths.
    """
    counted = {n: a for n, a in arrays.items() if not n.endswith(COUNTER)}
    prefix, numbered = _find_prefix(counted, origin)
    inner = {n.removeprefix(prefix): a for n, a in counted.items() if n.startswith(prefix)}
    if numbered:
        inner = _name_children(inner)
    named = {n.replace(".shortcut.", ".downsample."): a for n, a in inner.items()}
    own = {n: a for n, a in named.items() if _OF_BACKBONE.match(n)}
    return Found(own, prefix, len(counted) - len(own), encoder_settings(own, origin))


def encoder_settings(arrays: Arrays, origin: str) -> dict[str, object]:
    """Returns the settings of the encoder that arrays of torchvision's names fit.

    Raises:
        UserError: There is no such encoder.
    """
    first = arrays["conv1.weight"].shape
    if len(first) != 4 or first[2:] not in ((7, 7), (3, 3)):
        raise UserError(
            f"Expected a first convolution of [64, 3, 7, 7] or [64, 3, 3, 3] in {origin}, got "
            f"{list(first)}. Pass weights of a network with such a stem."
        )
    blocks = tuple(_count_blocks(arrays, stage) for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in arrays
    depths = [depth for depth, kind in DEPTHS.items() if kind == (blocks, bottleneck)]
    if not depths or any(name.startswith("layer5.") for name in arrays):
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise UserError(
            f"Expected a ResNet of depth {', '.join(map(str, DEPTHS))} in {origin}, got stages of "
            f"{', '.join(map(str, blocks))} {kind}. Pass weights of one of these depths."
        )
    return {
        "model": depths[0],
        "stem": "imagenet" if first[2] == 7 else "small",
        "width_multiplier": first[0] / ENCODER_WIDTH,
        "depthwise": False,
        "stride_in_1x1": False,
        "channels": first[1],
    }


def _find_prefix(names: Iterable[str], origin: str) -> tuple[str, bool]:
    """Returns what stands before the encoder's names, and whether its children are numbered."""
    known = set(names)
    found: dict[str, bool] = {}
    for name in known:
        for first, block, numbered in (
            ("conv1.weight", r"layer1.0.conv1.weight", False),
            ("0.weight", r"[24].0.conv1.weight", True),
        ):
            prefix = name.removesuffix(first)
            at_part = prefix == "" or prefix.endswith(".")
            pattern = re.escape(prefix) + block
            if name.endswith(first) and at_part and any(re.fullmatch(pattern, n) for n in known):
                found[prefix] = numbered
    trained = {p: numbered for p, numbered in found.items() if not SECOND_COPIES.search(p)}
    if len(trained or found) == 1:
        return next(iter((trained or found).items()))
    if found:
        raise UserError(
            f"Expected one encoder in {origin}, got {len(found)}, named "
            f"{', '.join(sorted(p + '*' for p in found))}. Write a file with one of them alone."
        )
    shown = "\n".join(f"- {name}" for name in sorted(known)[:LISTED])
    more = f"\n... {len(known) - LISTED} more" if len(known) > LISTED else ""
    raise UserError(
        f"Expected conv1.weight, layer1.0.conv1.weight and so on in {origin}, with any prefix, as "
        f"torchvision and timm name a ResNet, got {len(known)} other names:\n{shown}{more}\n"
        "Pass the weights of such a ResNet."
    )


def _name_children(arrays: Arrays) -> Arrays:
    """Gives the numbers of `nn.Sequential(*resnet.children())` torchvision's names."""
    numbers = {n.partition(".")[0] for n in arrays if re.fullmatch(r"\d+\.0\.conv1\.weight", n)}
    names = {number: f"layer{i}" for i, number in enumerate(sorted(numbers, key=int), start=1)}
    names |= {"0": "conv1", "1": "bn1"}
    parts = ((name.partition("."), array) for name, array in arrays.items())
    return {f"{names.get(n, n)}.{rest}": array for (n, _, rest), array in parts}


def _count_blocks(arrays: Iterable[str], stage: int) -> int:
    matches = (re.match(rf"layer{stage}\.(\d+)\.", name) for name in arrays)
    return len({match[1] for match in matches if match})


def _turn(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return array.transpose(axes) if array.ndim == 4 else array


def _turn_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else tuple(shape)
