"""Prediction: a trained classification or segmentation, run over images without labels."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from simclr_tf import data, plots
from simclr_tf.config import Config
from simclr_tf.data.decode import limit_pixels, resize_pixels
from simclr_tf.data.pipeline import CORES, own_size, plain_batches
from simclr_tf.errors import UserError
from simclr_tf.evaluation.segmentation import ScaleOf, make_segment, scale_rule
from simclr_tf.evaluation.tiles import segment_image
from simclr_tf.models.heads import classifier_head
from simclr_tf.models.unet import decoder_variables, unet
from simclr_tf.tasks import assembly, datasets, encoders
from simclr_tf.tasks.disk import naming_the_way_on
from simclr_tf.tasks.pace import Pace
from simclr_tf.training.checkpoints import named_variables, read_arrays, restore
from simclr_tf.training.execution import choose_execution
from simclr_tf.training.folder_lock import NAME as LOCK
from simclr_tf.training.folder_lock import hold_folder
from simclr_tf.training.run_folder import SIZE_FACTS, RunFolder
from simclr_tf.writing import write_whole

UNUSED = (
    "strategy",
    "xla",
    "cache",
    "val_fraction",
    "num_classes",
    "label_fraction",
    "tracker",
    "profile",
    "histograms",
)
TRAINED_TASKS = ("classification", "segmentation")
HEADS = {"classification": "classifier", "segmentation": "decoder"}  # names in checkpoints

# All that is written; whatever else lies in the folder is the user's.
TABLE = "predictions.csv"
FOLDERS = ("masks", "overlays")
FILES = (TABLE, "contact_sheet.png", "results.json")
TABLE_BEGINS = ("path,mask,", "path,class,probability,")

SHOWN_IMAGES = 16  # on the contact sheet
SHOWN_SIDE = 320  # pixels of an image's longer side there
AHEAD = 3  # images read, and predictions written, while the network is busy with another
BATCH_PIXELS = 2**22  # of images that are classified together
MOST_TOGETHER = 256
TOP = 5
JPEG_MOST_SIDE = 65_000  # pixels: the format ends a little above

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = list[str]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that is predicted with.

    Attributes:
        path: Its folder.
        config: Its settings.
        checkpoint: The file of its weights: the best, else the newest.
        arrays: What that file holds.
        class_names: K names.
        view_size: (h, w) of the views it was trained with, or None where that is not known.
        trained_on: (height, width) of the images they were cut from, or None where those differ.
    """

    path: pathlib.Path
    config: Config
    checkpoint: pathlib.Path
    arrays: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    view_size: Size | None = None
    trained_on: Size | None = None


def run(config: Config) -> dict[str, Any]:
    """Predicts with a trained run and returns what results.json holds.

    Writes `config.predict_save_path`: a table, a contact sheet and, of a segmentation, a mask and
    an overlay for each image, of the image's own size.

    Raises:
        UserError: There is no such run, no such data, or the folder is not free.
    """
    started = time.monotonic()
    limit_pixels(config.max_pixels)
    _check_flags(config)
    trained = read_run(config)
    path = _output_path(config, trained)
    with (
        hold_folder(path, task=config.task, flag="predict_save_path"),
        naming_the_way_on(config, RunFolder(path)),
    ):
        return _predict(config, trained, OutputFolder(path), started)


def _predict(
    config: Config, trained: Trained, folder: OutputFolder, started: float
) -> dict[str, Any]:
    folder.check(overwrite=config.overwrite)
    execution = choose_execution(config.precision, "false")
    source = _load_source(config.replace(channels=trained.config.channels))
    model = build_model(trained)
    print(
        f"predicts the {len(source)} images of {source.name} with {trained.checkpoint} "
        f"({trained.config.task}, {len(trained.class_names)} classes)",
        flush=True,
    )
    _name_unused(config, trained)
    if trained.config.task == "segmentation":
        task: Segmenter | Classifier = Segmenter(config, trained, model, source, folder)
    else:
        task = Classifier(config, trained, model, source, folder)
    folder.begin()
    pace = Pace(len(source))
    task.predict_all(pace)
    run = assembly.Run(config, execution, RunFolder(folder.path), started)
    return run.finish(
        **task.report(),
        num_images=len(source),
        num_skipped=source.skipped,
        class_names=list(trained.class_names),
        run=str(trained.path),
        run_task=trained.config.task,
        checkpoint=str(trained.checkpoint),
        images_per_second=pace.images_per_second,
        peak_memory_bytes=assembly.peak_memory_bytes(),
    )


def _check_flags(config: Config) -> None:
    """Raises UserError for a flag that would ask for something else than is done."""
    if config.resume:
        raise UserError(
            "Expected a prediction from its beginning, got --resume. Pass --overwrite to replace "
            "what lies in the folder."
        )


def _name_unused(config: Config, trained: Trained) -> None:
    """Prints the flags that were given where the run has its own settings."""
    known = trained.config.task == "segmentation" or trained.view_size is not None
    names = [*UNUSED, *(("input_size", "crop_size") if known else ())]
    given = [f"--{name}" for name in names if name in config.given]
    # With --config=RUN/config.yaml all settings of the run are given.
    if given and not config.config:
        print(f"not used here: {', '.join(given)}", flush=True)


def read_run(config: Config) -> Trained:
    """Reads the run that is named, up to its weights.

    Raises:
        UserError: There is none that classifies or segments.
    """
    path, file = _locate_run(config)
    folder = RunFolder(path)
    checkpoint = file or folder.checkpoints.best_or_newest()
    if checkpoint is None:
        raise UserError(
            f"Expected weights in {path / 'checkpoints'}, got none: the run did not come to its "
            f"first checkpoint. Go on with it by --config={path / 'config.yaml'}, or pass another "
            "run."
        )
    arrays = read_arrays(checkpoint)
    settings = encoders.read_settings(path / "config.yaml")
    count = _count_classes(arrays, HEADS[settings.task], checkpoint)
    facts = folder.facts()
    names = tuple(facts.get("class_names", map(str, range(count))))
    if len(names) != count:
        raise UserError(
            f"Expected the names of {count} classes in {path / 'model.json'}, got {len(names)}. "
            "Correct or remove the file."
        )
    sizes = (tuple(facts[key]) if facts.get(key) else None for key in SIZE_FACTS)
    return Trained(path, settings, checkpoint, arrays, names, *sizes)


def _locate_run(config: Config) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns the folder of the run that is named and, where one was named, the file of weights.

    `--config=RUN/config.yaml` may bring the first weights of that very run as `init_weights`: these
    are no run that predicts.
    """
    task, given = None, config.init_weights
    for flag in ("init_weights", "finetune_save_path"):
        path = pathlib.Path(getattr(config, flag))
        if flag == "init_weights" and given in ("auto", "none"):
            continue
        file = path if path.is_file() else None
        path = path.parent.parent if file else path
        task = assembly.task_of(path)
        if task in TRAINED_TASKS:
            return path, file
        if task is None or not config.config:
            break
    found = (
        "no config.yaml of a run" if task is None else f"one of --task={task} in its config.yaml"
    )
    raise UserError(
        f"Expected a run of {' or '.join(TRAINED_TASKS)} in {path}, got {found}. Pass the folder "
        "of such a run as --finetune_save_path or --init_weights."
    )


def _count_classes(arrays: dict[str, np.ndarray], head: str, checkpoint: pathlib.Path) -> int:
    for name, array in arrays.items():
        if name.startswith(f"{head}/") and name.endswith("logits/bias"):
            return len(array)
    raise UserError(
        f"Expected weights of a {head} in {checkpoint}, got none. Pass the folder of a run of "
        f"{' or '.join(TRAINED_TASKS)}."
    )


def _output_path(config: Config, trained: Trained) -> pathlib.Path:
    if config.predict_save_path:
        return pathlib.Path(config.predict_save_path)
    chosen = config.init_weights == "auto" or "finetune_save_path" in config.given
    base = pathlib.Path(config.finetune_save_path) if chosen else trained.path
    return base / "predictions"


def _load_source(config: Config) -> data.Source:
    """Loads the images that are reported on, all where there is one set; each of its own size."""
    plain = config.replace(input_size=(0, 0), cache="false", val_fraction=0.0, num_classes=0)
    splits = datasets.load_splits(plain, some_labels=True)
    return splits.train if splits.test is None else splits.test


def build_model(trained: Trained) -> keras.Model:
    """Builds the run's network with its weights: images -> logits."""
    config, count = trained.config, len(trained.class_names)
    encoder = encoders.build_encoder(config)
    if config.task == "segmentation":
        model = unet(encoder, count)
        head = decoder_variables(model, encoder)
    else:
        top = classifier_head(
            encoder.output_shape[-1],
            count,
            nonlinear=config.include_nonlinearity,
            normalize=config.freeze,
        )
        model, head = keras.Sequential([encoder, top], name="classifier"), top.variables
    variables = named_variables("encoder", encoder.variables)
    variables |= named_variables(HEADS[config.task], head)
    restore(variables, trained.arrays, str(trained.checkpoint))
    if config.task == "classification" and config.freeze:
        # The layer computes with constants that it made of its variables when it was built.
        top.get_layer("normalize").finalize_state()
    return model


class OutputFolder:
    """The folder of one prediction.

    Args:
        path: The folder; made by `begin`.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def check(self, *, overwrite: bool) -> None:
        """Raises UserError where a prediction may not be written; removes nothing yet."""
        if not {path.name for path in self.path.iterdir()} - {LOCK}:
            return
        if not overwrite:
            raise UserError(
                f"Expected an empty folder or none at {self.path}, got files there. Pass "
                "--overwrite to replace the predictions in it, or another --predict_save_path."
            )
        # A folder of images and masks, say, is nobody's prediction: --overwrite must not cost it.
        there = [name for name in (*FOLDERS, *FILES) if (self.path / name).exists()]
        if there and not self._is_ours():
            raise UserError(
                f"Expected predictions in {self.path} for --overwrite to replace, got "
                f"{', '.join(there)} without the {TABLE} of one. Pass another --predict_save_path."
            )

    def _is_ours(self) -> bool:
        try:
            with open(self.path / TABLE, encoding="utf-8", errors="replace") as file:
                return file.readline().startswith(TABLE_BEGINS)
        except OSError:
            return False

    def begin(self) -> None:
        """Makes the folder and removes the prediction that was there, but nothing else."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for name in FILES[1:]:  # the table is replaced; until then it says whose folder this is
            (self.path / name).unlink(missing_ok=True)

    def write(self, name: str, save: Callable[[pathlib.Path], object]) -> None:
        """Calls `save` with a path and gives what it wrote its name once it is whole."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save)

    def write_table(self, columns: Row, rows: Iterable[Row]) -> None:
        """Writes the table."""

        def save(path: pathlib.Path) -> None:
            # Names that are no UTF-8 go out as the bytes that they came in as.
            with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([columns, *rows])

        self.write(TABLE, save)


class Segmenter:
    """Writes the mask and the overlay of every image."""

    def __init__(
        self,
        config: Config,
        trained: Trained,
        model: keras.Model,
        source: data.Source,
        folder: OutputFolder,
    ) -> None:
        self.trained, self.source, self.folder = trained, source, folder
        settings = trained.config
        self.segment = make_segment(model, ignore_label=datasets.ignore_label(settings))
        # Of an older run, which has not written the size of its views: images at their own scale.
        self.scale_of: ScaleOf = lambda size: 1.0
        if trained.view_size is not None:
            self.scale_of = scale_rule(
                trained.view_size,
                trained_on=trained.trained_on,
                area_min=settings.crop_area_min if settings.crop else 1.0,
            )
        self.tile = None if config.tile_size == (0, 0) else config.tile_size
        self.overlap = config.tile_overlap
        self.names = output_names(source)
        self.pixels = np.zeros(len(trained.class_names), np.int64)
        self.shown = _spread(len(source))
        self._thumbnails: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def predict_all(self, pace: Pace) -> None:
        columns = ["path", "mask", *(f"share_{name}" for name in self.trained.class_names)]
        rows: list[Row] = []
        self.folder.write_table(columns, rows)
        try:
            with ThreadPoolExecutor(max(CORES, 2)) as pool:
                images = _ahead(pool, self.source.read, range(len(self.source)))
                found = ((i, image, self._segment(image)) for i, image in enumerate(images))
                for row, counts in _ahead(pool, lambda each: self._write(*each), found):
                    rows.append(row)
                    self.pixels += counts
                    pace.add(1)
        finally:  # what is done when it is interrupted can be used
            self.folder.write_table(columns, rows)

    def report(self) -> dict[str, Any]:
        """Draws the contact sheet and returns the results of the task."""
        images, masks = zip(*(self._thumbnails[index] for index in self.shown), strict=True)

        def save(path: pathlib.Path) -> None:
            plots.plot_segmentation(
                images,
                None,
                masks,
                path,
                class_names=self.trained.class_names,
                title=_sheet_title(self.shown, self.source),
            )

        self.folder.write("contact_sheet.png", save)
        return {"pixels_per_class": self.pixels.tolist()}

    def _segment(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        read_height, read_width = self.trained.config.input_size
        # The run cut its images to this size: the scale that brings this one to it covers it whole.
        read = max(read_height / height, read_width / width) or 1.0
        scale = read * self.scale_of((height, width))
        return segment_image(self.segment, image, scale=scale, tile=self.tile, overlap=self.overlap)

    def _write(self, index: int, image: np.ndarray, mask: np.ndarray) -> tuple[Row, np.ndarray]:
        """Writes the files of one image; returns its row and its pixels of each class."""
        name, count = self.names[index], len(self.trained.class_names)
        picture = Image.fromarray(mask)
        picture.putpalette(plots.mask_palette(count).tobytes())  # its mode is P now
        self.folder.write(f"masks/{name}.png", lambda path: picture.save(path, format="PNG"))
        overlay = Image.fromarray(plots.overlay_masks(image, mask, count))
        if max(mask.shape) <= JPEG_MOST_SIDE:
            self.folder.write(
                f"overlays/{name}.jpg", lambda path: overlay.save(path, format="JPEG", quality=90)
            )
        else:
            self.folder.write(f"overlays/{name}.png", lambda path: overlay.save(path, format="PNG"))
        if index in self.shown:
            self._thumbnails[index] = _shrunk(image), _shrunk(mask)
        counts = np.bincount(mask.ravel(), minlength=count)
        shares = [f"{share:.6f}" for share in counts / mask.size]
        return [_path_of(self.source, index, self.names), f"masks/{name}.png", *shares], counts


class Classifier:
    """Writes the class of every image into the table."""

    def __init__(
        self,
        config: Config,
        trained: Trained,
        model: keras.Model,
        source: data.Source,
        folder: OutputFolder,
    ) -> None:
        self.trained, self.source, self.folder = trained, source, folder
        self.model = model
        self.size = _view_size(config, trained, source)
        self.names = output_names(source)
        self.images = Counter[int]()
        self._captions: list[str] = []

    def predict_all(self, pace: Pace) -> None:
        columns = ["path", "class", "probability", f"top{TOP}"]
        rows: list[Row] = []
        self.folder.write_table(columns, rows)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *self.size, self.model.input_shape[-1]], tf.float32)
            ]
        )
        def classify(images: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(tf.cast(self.model(images, training=False), tf.float32))

        try:
            for images in self._batches():
                for odds in classify(images).numpy():
                    rows.append(self._row(len(rows), odds))
                pace.add(len(images))
        finally:
            self.folder.write_table(columns, rows)

    def report(self) -> dict[str, Any]:
        """Draws the contact sheet and returns the results of the task."""
        shown = _spread(len(self.source))
        images = [_shrunk(self.source.read(index)) for index in shown]
        captions = [self._captions[index] for index in shown]
        title = _sheet_title(shown, self.source)
        self.folder.write(
            "contact_sheet.png",
            lambda path: plots.plot_captioned(images, captions, path, title=title),
        )
        count = len(self.trained.class_names)
        return {"images_per_class": [self.images[number] for number in range(count)]}

    def _batches(self) -> Iterator[tf.Tensor]:
        together = BATCH_PIXELS // (self.size[0] * self.size[1])
        together = min(max(together, 1), MOST_TOGETHER)
        yield from plain_batches(self.source, batch_size=together, size=self.size)

    def _row(self, index: int, odds: np.ndarray) -> Row:
        names = self.trained.class_names
        first = np.argsort(-odds, kind="stable")[:TOP]
        best = int(first[0])
        self.images[best] += 1
        self._captions.append(f"{names[best]} {odds[best]:.2f}")
        top = "; ".join(f"{names[number]}={odds[number]:.4f}" for number in first)
        path = _path_of(self.source, index, self.names)
        return [path, names[best], f"{odds[best]:.4f}", top]


def _view_size(config: Config, trained: Trained, source: data.Source) -> tuple[int, int]:
    """Returns (height, width) that images are classified at: the run's, else the flags', else own.

    Raises:
        UserError: None of them is known.
    """
    if trained.view_size is not None:
        return trained.view_size
    for settings in (trained.config, config):
        for size in (settings.crop_size, settings.input_size):
            if size != (0, 0):
                return size
    return own_size(source)


def output_names(source: data.Source) -> list[str]:
    """Returns the name of each image's files without extension, below the images' common folder.

    Images of one name but for the extension keep it; images in memory are numbered.
    """
    if not source.paths:
        digits = max(len(str(len(source) - 1)), 4)
        return [f"{index:0{digits}d}" for index in range(len(source))]
    paths = [os.path.abspath(path) for path in source.paths]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    whole = [pathlib.Path(path).relative_to(root).as_posix() for path in paths]
    names = [os.path.splitext(name)[0] for name in whole]
    for _ in range(2):  # beside a.jpg and a.png, the stem of a.jpg.bmp is no name of its own either
        count = Counter(names)
        names = [full if count[name] > 1 else name for name, full in zip(names, whole, strict=True)]
    if len(set(names)) < len(names):  # a list may name an image twice
        names = [f"{name}_{index}" for index, name in enumerate(names)]
    return names


def _path_of(source: data.Source, index: int, names: Sequence[str]) -> str:
    return source.paths[index] if source.paths else names[index]


def _ahead(
    pool: ThreadPoolExecutor, do: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Yields `do` of each item, in order, with the next few under way in threads."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(do, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _spread(count: int) -> list[int]:
    """Returns the images on the contact sheet, spread over the set: files are sorted by class."""
    return np.unique(np.linspace(0, count - 1, SHOWN_IMAGES).astype(int)).tolist()


def _sheet_title(shown: Sequence[int], source: data.Source) -> str:
    return f"{len(shown)} of the {len(source)} images of {source.name}"


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """Returns an image or a mask as it is put on the contact sheet."""
    factor = SHOWN_SIDE / max(pixels.shape[:2])
    if factor >= 1.0:
        return pixels.copy()
    height, width = (max(1, round(factor * side)) for side in pixels.shape[:2])
    method = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.BILINEAR
    return resize_pixels(pixels, (height, width), method)
