"""Text files that users write: lists of images, tables of colours, settings."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from fuzzing.broken import broken
from fuzzing.case import Case, Wrong
from simclr_tf import cli, data
from simclr_tf.config.fields import check_bounds
from simclr_tf.config.settings import Config
from simclr_tf.data.masks import read_colour_table
from simclr_tf.data.sets.lists import load_lists

CELLS = (
    "a.bmp", "../images/a.bmp", "b c.bmp", "nothing.bmp", ".", "..", "", " ", "~", "~root", "~\0",
    "a.bmp\0", "-rf", "/dev/zero", "C:\\a.bmp", "x" * 300, "é", "\ud7ff", '"', '"a.bmp', '""',
    "'", "#", "0", "1", "2", "-1", "+1", "1.0", "1e400", "nan", "1_0", "٣", "²", "0x1", "true",
    "4294967296", "2147483648", "99999999999999999999", "1999999999", "9" * 5000, "\u2028", "\x85",
    "\x0c", "\x1c", "\t", ";",
)  # fmt: skip
SEPARATORS = (",", ", ", " ,", ";", "\t", "", ",", " ")
ENDS = ("\n", "\r\n", "\r", "\n\n", "\x0b", "")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037")
LONG = 300_000  # characters of a very long line


def image_list(rng: np.random.Generator, folder: Path) -> Case:
    """A list of images, with labels or masks, as --train_file_path."""
    for name in ("a", "b c", "é"):
        Image.new("RGB", (9, 9)).save(folder / f"{name}.bmp")
    file = folder / "list.txt"
    content, how = _text(rng, 'a.bmp,0\nb c.bmp,1\n# all\n\n"é.bmp",1\n', CELLS)
    if how == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)
    need, masked, num_classes = rng.random() < 0.7, rng.random() < 0.2, int(rng.choice([0, 0, 2]))

    def read() -> None:
        if masked:
            load_lists(str(file), "", need_labels=False, num_classes=num_classes, masks=True)
            return
        train = data.load(
            f"list:{file}",
            need_labels=need,
            num_classes=num_classes,
            cache="false",
        ).train
        if not all(Path(path).is_file() for path in train.paths):
            raise Wrong(f"paths {train.paths}")
        if need and (train.labels.min() < 0 or train.labels.max() >= train.num_classes):
            raise Wrong(f"labels {train.labels} of {train.num_classes} classes")

    return Case(file, how, read)


def colour_table(rng: np.random.Generator, folder: Path) -> Case:
    """A table of colours, as --mask_colors."""
    file = folder / "colours.txt"
    content, how = _text(rng, "0 0 0 background\n255, 0, 0, road # red\n", CELLS + ("255", "256"))
    if how == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)

    def read() -> None:
        colours, names = read_colour_table(file)
        if colours.dtype != np.uint8 or colours.shape != (len(names), 3):
            raise Wrong(f"{colours.dtype} {colours.shape}, {len(names)} names")

    return Case(file, how, read)


def settings(rng: np.random.Generator, folder: Path) -> Case:
    """A YAML file, as --config, through the command line's parser."""
    file = folder / "recipe.yaml"
    names = [*_odd_settings()]
    if rng.random() < 0.6:
        how = names[rng.integers(len(names))]
        content = _odd_settings()[how]
    elif rng.random() < 0.5:
        how, lines = "odd values", Config().to_yaml().splitlines()
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(lines)))
            lines[place] = lines[place].split(":")[0] + ": " + str(rng.choice(VALUES))
        content = "\n".join(lines).encode()
    else:
        content, how = broken(rng, Config().to_yaml().encode())
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)

    def read() -> None:
        # What a value may be is said of the flag of that name, which tells where it is.
        config = cli.parse([f"--config={file}"])
        config.validate()
        fresh = Config()
        for name, value in vars(config).items():
            if isinstance(value, int | float) and name in cli.SETTINGS:
                check_bounds(cli.SETTINGS[name], value)
            known = type(getattr(fresh, name))
            if name != "blur" and type(value) is not known:
                raise Wrong(f"{name} is {value!r}")

    return Case(file, how, read)


VALUES = (
    "1e400", "-1e400", ".inf", ".nan", "9" * 400, "-1", "0", "1_0", "0x10", "0o7", "1:30", "٣", "",
    "~", "null", "yes", "[]", "{}", "[1, 2]", "[1, 2, 3]", "[[1], 2]", "{a: 1}", "'\\0'", '"\\0"',
    '"a\\0b"', "!!python/name:os.system", "!!binary aGVsbG8=", "!!int x", "2024-99-99",
    "2024-01-01", "*nothing", "&a 3", "|\n  text", "!!set {a, b}", "!!timestamp x", "1 2",
    '"\\ud800"', "999999999999", "240 240", "9999999999 1", "- 3", "@", "`", "%", "!!float 1e5",
)  # fmt: skip


@functools.cache
def _odd_settings() -> dict[str, bytes | None]:
    laughs = "\n".join(
        f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 9)}]" for level in range(1, 12)
    )
    return {
        "billion laughs, unknown names": f"x0: &x0 ha\n{laughs}\n".encode(),
        "billion laughs, in a size": (
            "input_size: &x0 [1, 1]\n"
            + laughs.replace("x11: &x11", "crop_size: &x11").replace("\nx", "\nseed: 1\nx")
        ).encode(),
        "billion laughs, one value": (
            "seed:\n  - &x0 [a]\n"
            + "\n".join(f"  - &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12))
        ).encode(),
        "an alias of a long text": (
            f"dataset: &long {'x' * 100_000}\ncrop_size: [{', '.join(['*long'] * 9000)}]\n".encode()
        ),
        "refers to itself": b"seed: &a [*a]\n",
        "merges itself": b"<<: &a {seed: 1, <<: *a}\n",
        "merge": b"base: &b {seed: 1}\n<<: *b\n",
        "python object": b"seed: !!python/object/apply:os.system ['true']\n",
        "python tuple": b"input_size: !!python/tuple [8, 8]\n",
        "other tag": b"seed: !mine 3\n",
        "same name twice": b"batch_size: 256\nseed: 1\nbatch_size: 2\n",
        "many names": b"".join(b"x%d: 1\n" % n for n in range(30_000)),
        "map of a list": b"seed: !!map [1]\n",
        "omap": b"!!omap [seed: 1]\n",
        "pairs": b"!!pairs {seed: 1}\n",
        "set": b"!!set {seed, seed}\n",
        "nested": b"data:\n  batch_size: 3\n",
        "list": b"- batch_size: 3\n",
        "text": b"batch_size 3\n",
        "number": b"3\n",
        "empty": b"",
        "comment": b"# nothing\n",
        "two documents": b"seed: 1\n---\nseed: 2\n",
        "deep lists": b"seed: " + b"[" * 20_000,
        "deep lists, closed": b"seed: " + b"[" * 3000 + b"]" * 3000,
        "deep maps": b"".join(b" " * n + b"a:\n" for n in range(1500)),
        "deep names": b"? " * 3000 + b"seed\n",
        "binary": bytes(range(256)),
        "UTF-16": "seed: 3\n".encode("utf-16"),
        "latin-1": "dataset: folder:é\n".encode("latin-1"),
        "BOM": b"\xef\xbb\xbfseed: 3\n",
        "CR": b"seed: 3\rbatch_size: 4\r",
        "tab": b"\tseed: 3\n",
        "NUL": b"seed: 3\0\n",
        "name is a list": b"? [seed]\n: 3\n",
        "name is a map": b"? {seed: 1}\n: 3\n",
        "name is nothing": b": 3\n",
        "name is long": b"x" * 1000 + b": 3\n",
        "name is not a number": b".nan: 3\n",
        "name with odd characters": b'"se\\ud800ed": 3\n',
        "long value": b"dataset: " + b"x" * 1_000_000 + b"\n",
        "wrong long value": b"batch_size: " + b"x" * 1_000_000 + b"\n",
        "folder": None,
    }


def _text(rng: np.random.Generator, valid: str, cells: tuple[str, ...]) -> tuple[bytes, str]:
    draw = rng.random()
    if draw < 0.3:
        return broken(rng, valid.encode())
    if draw < 0.4:
        encoding = str(rng.choice(ENCODINGS))
        return valid.encode(encoding), encoding
    if draw < 0.43:
        return b"", "folder"
    if draw < 0.47:
        return valid.replace("\n", "\r").encode(), "CR only"
    if draw < 0.52:
        line = str(rng.choice(["a.bmp", "0", '"', ",", " ", "1 "])) * LONG
        return f"{valid}{line[:LONG]},1\n".encode(), "long line"
    lines = []
    for _ in range(int(rng.integers(1, 5))):
        words = [cells[i] for i in rng.integers(0, len(cells), int(rng.integers(1, 4)))]
        if rng.random() < 0.6:
            words[0] = "a.bmp"
        lines.append(str(rng.choice(SEPARATORS)).join(words) + str(rng.choice(ENDS)))
    text = "".join(lines)
    return text.encode("utf-8", "surrogatepass"), f"cells {text[:80]!r}"
