"""Settings: every spelling of every flag, the order of the layers, YAML, ranges, messages."""

from __future__ import annotations

import dataclasses

import pytest
from tables import for_each

from simclr_tf.augment.recipe import Recipe
from simclr_tf.cli import parse
from simclr_tf.config.fields import is_switch, nearest, show, spell_bounds
from simclr_tf.config.presets import DATA_PRESETS, PRESETS
from simclr_tf.config.settings import SETTINGS, TASKS, Config, with_flags
from simclr_tf.errors import UserError

SWITCHES = [name for name, field in SETTINGS.items() if is_switch(field)]
CHOICES = [
    (name, choice)
    for name, field in SETTINGS.items()
    for choice in field.metadata["choices"]
    if ":" not in str(choice)
]
CONTRACT = """
    task config seed
    dataset cifar10 train_file_path val_file_path label_pattern input_size crop_size num_classes
    label_fraction val_fraction channels cache skip_bad_images max_pixels ignore_label mask_colors
    model width_multiplier depthwise stem zdim projection_hidden projection_layers init_weights
    normalize_input stride_in_1x1 freeze include_nonlinearity
    temperature similarity dice_weight class_weights
    optimizer learning_rate encoder_learning_rate lr_scaling weight_decay warmup_epochs num_epochs
    batch_size microbatch_size
    crop flip jitter colordrop blur noise rotate cutout
    flip_prob jitter_prob color_prob blur_prob noise_prob rotate_prob cutout_prob
    strength max_rotation crop_area_min jitter_mode
    precision augment_on xla steps_per_execution deterministic data_service strategy
    pretrain_save_path finetune_save_path resume overwrite
    save_every_epochs save_every_minutes keep_checkpoints
    eval_every_epochs log_every_steps max_steps histograms profile tracker preview
    protocols label_fractions num_seeds compare with_z embed_format index projector
    predict_save_path tile_size tile_overlap
    format export_of export_path export_license
""".split()


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str | bytes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def refused(*words: str) -> str:
    """Returns the message with which the words are refused, at parsing or at validation."""
    with pytest.raises(UserError) as caught:
        parse(words).validate()
    message = with_flags(str(caught.value))
    assert "\n" not in message
    return message


def test_the_flags_are_those_of_the_contract():
    assert list(SETTINGS) == CONTRACT
    assert set(SETTINGS) | {"given", "typed"} == {
        field.name for field in dataclasses.fields(Config)
    }


def test_the_defaults_that_results_depend_on():
    """A run without flags means the same in every version: who changes one, changes it here too."""
    recipe = {
        "model": 18, "width_multiplier": 1.0, "zdim": 128, "projection_layers": 2,
        "temperature": 0.1, "similarity": "cosine", "optimizer": "lars", "learning_rate": 1.0,
        "lr_scaling": "linear", "weight_decay": 1e-4, "warmup_epochs": 10.0, "num_epochs": 100,
        "batch_size": 256, "flip_prob": 0.5, "jitter_prob": 0.8, "color_prob": 0.2,
        "blur_prob": 0.5, "strength": 0.5, "crop_area_min": 0.08, "seed": 0,
    }  # fmt: skip
    assert {name: getattr(Config(), name) for name in recipe} == recipe


def test_every_setting_has_a_meaning_and_a_valid_default():
    assert all(field.metadata["help"].endswith(".") for field in SETTINGS.values())
    Config().validate()


def test_every_recipe_field_is_a_setting_with_the_same_default():
    assert Config().recipe() == Recipe()
    assert Config(strength=0.25, blur=True).recipe() == Recipe(strength=0.25, blur=True)


@for_each("name", SWITCHES)
def test_every_switch_in_every_spelling(name):
    def value(*words: str) -> object:
        return getattr(parse(words), name)

    assert value(f"--{name}") is True
    assert value(f"--no-{name}") is False
    for word in ("True", "true", "TRUE", "1", "yes"):
        assert value(f"--{name}={word}") is True
        assert value(f"--{name}", word) is True
    for word in ("False", "false", "FALSE", "0", "no"):
        assert value(f"--{name}={word}") is False
        assert value(f"--{name}", word) is False
    assert value(f"--{name}", f"--no-{name}") is False
    assert value(f"--no-{name}", f"--{name}") is True
    assert value(f"--{name}", "--seed=3") is True


@for_each("name", SWITCHES)
@for_each("word", ["maybe", "", "2", "None", "t", "on"])
def test_a_switch_takes_strict_words_only(name, word):
    message = refused(f"--{name}={word}")
    assert f"for --{name}, got {word!r}" in message
    assert f"--no-{name}" in message


def test_the_automatic_switch():
    assert parse(["--blur=auto"]).blur is None
    assert parse([]).blur is None
    assert "got 'auto'" in refused("--flip=auto")
    assert "true, false or auto" in refused("--blur=maybe")


def test_a_switch_that_is_denied_takes_no_value():
    assert "--no-freeze" in refused("--no-freeze=True")


@for_each("word", ["240 320", "240,320", "240x320", "240, 320", " 240  320 "])
def test_sizes(word):
    config = parse([f"--input_size={word}", "--crop_size", word])
    assert config.input_size == config.crop_size == (240, 320)


def test_one_number_is_a_square_and_none_the_default():
    assert parse(["--crop_size=80"]).crop_size == (80, 80)
    assert parse([]).input_size == (0, 0)


@for_each("word", ["", "big", "1 2 3", "240x", "-5", "24.5", "240;240"])
def test_wrong_sizes(word):
    assert "a height and width such as '240 240'" in refused(f"--input_size={word}")


@for_each("word", ["0 240", "7", "4 4"])
def test_too_small_sizes(word):
    assert "8 pixels or more" in refused(f"--crop_size={word}")


@for_each(("name", "choice"), CHOICES)
def test_every_choice(name, choice):
    assert getattr(parse([f"--{name}={choice}"]), name) == choice
    assert getattr(parse([f"--{name}={str(choice).upper()}"]), name) == choice
    parse([f"--{name}={choice}"]).validate()


@for_each("name", sorted({name for name, _ in CHOICES}))
def test_a_wrong_choice_lists_the_right_ones(name):
    message = refused(f"--{name}=nonsense!")
    assert f"for --{name}, got 'nonsense!'" in message
    assert all(str(choice) in message for choice in SETTINGS[name].metadata["choices"])


@for_each(
    ("flag", "guess"),
    [
        ("--task=pretraining", "pretrain"),
        ("--optimizer=adamn", "adam"),
        ("--dataset=cifar", "cifar10"),
        ("--dataset=flder:/data/x", "folder:PATH"),
        ("--dataset=folder", "folder:PATH"),
        ("--dataset=tfds:", "tfds:NAME"),
        ("--dataset=./my/pictures", "folder:./my/pictures"),
        ("--precision=bfloat16", "mixed_bfloat16"),
        ("--lr_scaling=linaer", "linear"),
    ],
)
def test_a_wrong_choice_names_the_nearest(flag, guess):
    assert refused(flag).endswith(f"Did you mean {guess}?")


@for_each("name", ["tfds:beans", "folder:/My Pictures/a:b", "npz:x.npz"])
def test_data_sets_by_prefix(name):
    assert parse([f"--dataset={name}"]).dataset == name


@for_each(
    ("word", "guess"),
    [
        ("--temprature=0.1", "--temperature"),
        ("--batchsize=3", "--batch_size"),
        ("--batch-size", "--batch_size"),
        ("--epochs=5", "--num_epochs"),
        ("--lr=0.1", "--learning_rate"),
        ("--no-jiter", "--no-jitter"),
        ("--no_flip", "--no-flip"),
        ("-seed=3", "--seed"),
        ("--temp=0.1", "--temperature"),
        ("--input-size=240 240", "--input_size"),
        ("classify", "--task=classification"),
    ],
)
def test_an_unknown_flag_names_the_nearest_and_none_is_abbreviated(word, guess):
    assert refused(word).endswith(f"Did you mean {guess}?")


@for_each("word", ["--zzzzqqqq", "--", "-", "", "a stray word", "--=3", "--no-"])
def test_words_like_no_flag_are_refused_too(word):
    assert "Expected" in refused("--seed=1", word)


@for_each("name", [name for name in SETTINGS if name not in SWITCHES])
def test_a_flag_without_its_value(name):
    for words in ([f"--{name}"], [f"--{name}", "--freeze"]):
        message = refused(*words)
        assert message.startswith(f"Expected a value after --{name}, got none. Pass --{name}=")


@for_each("word", ["many", "", "2.5", "1e3", "True", "None"])
def test_whole_numbers(word):
    assert f"Expected a whole number for --batch_size, got {word!r}" in refused(
        f"--batch_size={word}"
    )


@for_each("word", ["warm", "", "0,1", "True"])
def test_numbers(word):
    assert "Expected a number for --temperature" in refused(f"--temperature={word}")


@for_each(
    "flag",
    [
        "--temperature=0",
        "--temperature=-1",
        "--batch_size=1",
        "--microbatch_size=-1",
        "--microbatch_size=100",
        "--learning_rate=-0.1",
        "--weight_decay=-1",
        "--label_fraction=0",
        "--label_fraction=1.01",
        "--val_fraction=1",
        "--val_fraction=-0.1",
        "--width_multiplier=0.05",
        "--width_multiplier=8.5",
        "--projection_layers=0",
        "--projection_layers=5",
        "--projection_hidden=-1",
        "--zdim=0",
        "--num_classes=-1",
        "--num_epochs=-1",
        "--warmup_epochs=-1",
        "--max_steps=-1",
        "--seed=-1",
        "--seed=2147483648",
        "--save_every_epochs=0",
        "--keep_checkpoints=0",
        "--eval_every_epochs=-1",
        "--log_every_steps=0",
        "--model=101",
        "--flip_prob=1.5",
        "--cutout_prob=-0.5",
        "--strength=-1",
        "--max_rotation=181",
        "--crop_area_min=0",
        "--pretrain_save_path=",
        "--init_weights= ",
    ],
)
def test_ranges(flag):
    name, _, value = flag.partition("=")
    message = refused(flag)
    assert name in message
    assert value.strip() in message
    assert message.startswith("Expected ")


@for_each(
    "flag",
    [
        "--label_fraction=1",
        "--val_fraction=0",
        "--width_multiplier=0.0625",
        "--width_multiplier=4",
        "--seed=2147483647",
        "--num_epochs=0",
        "--learning_rate=0",
        "--microbatch_size=64",
        "--batch_size=2",
        "--input_size=8",
    ],
)
def test_the_ends_of_the_ranges_are_allowed(flag):
    parse([flag]).validate()


@for_each("name", [name for name, field in SETTINGS.items() if str(field.type) == "float"])
@for_each("word", ["nan", "inf", "-inf", "1e999"])
def test_no_number_may_be_infinite_or_undefined(name, word):
    assert f"--{name}" in refused(f"--{name}={word}")


def test_spelled_bounds():
    assert spell_bounds("(0, 1]") == "in (0, 1]"
    assert spell_bounds("[2, inf)") == "2 or more"
    assert spell_bounds("(0, inf)") == "above 0"
    assert spell_bounds("") == ""


def test_nearest():
    assert nearest("wd", SETTINGS) == "weight_decay"
    assert nearest("Temprature", SETTINGS) == "temperature"
    assert nearest("qqq", SETTINGS) == ""


def test_a_bare_constructor_is_checked_as_strictly():
    for wrong in ({"batch_size": "256"}, {"input_size": 240}, {"optimizer": "LARS"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Config(**wrong).validate()
    with pytest.raises(UserError, match="one data set"):
        Config(cifar10=True).validate()
    with pytest.raises(UserError, match="--resume or --overwrite"):
        Config(resume=True, overwrite=True).validate()


def test_a_flag_of_another_task_does_no_harm():
    parse(["--task=classification", "--temperature=0.5", "--zdim=64"]).validate()
    parse(["--task=pretrain", "--freeze", "--label_fraction=0.1"]).validate()


# -- layers --


def test_presets_hold_settings_only():
    assert set(PRESETS) <= set(TASKS)
    assert {task for task, _ in DATA_PRESETS} <= set(TASKS)
    for preset in (*PRESETS.values(), *DATA_PRESETS.values()):
        Config(**preset).validate()
    for task in TASKS:
        Config.resolve(task=task).validate()


def test_the_task_sets_its_own_defaults():
    config = parse(["--task=classification", "--dataset=stl10"])
    assert {name: getattr(config, name) for name in PRESETS["classification"]} == PRESETS[
        "classification"
    ]


@for_each(
    ("word", "zdim"),
    [
        ("--dataset=shapes", 1),
        ("--cifar10", 2),
        ("--dataset=folder:/x", 3),
        ("--train_file_path=a.txt", 4),
        ("--dataset=stl10", Config.zdim),
    ],
)
def test_the_data_set_changes_the_task_preset(monkeypatch, word, zdim):
    for number, data in enumerate(("shapes", "cifar10", "folder", "list"), start=1):
        monkeypatch.setitem(DATA_PRESETS, ("pretrain", data), {"zdim": number})
    assert parse([word]).zdim == zdim


def test_precedence(yaml_file, monkeypatch):
    monkeypatch.setitem(PRESETS, "segmentation", {"num_epochs": 2, "zdim": 2, "batch_size": 2})
    monkeypatch.setitem(DATA_PRESETS, ("segmentation", "stl10"), {"zdim": 3, "batch_size": 4})
    path = yaml_file("task: segmentation\ndataset: stl10\nbatch_size: 6\nseed: 4")
    config = parse([f"--config={path}", "--seed=5"])
    assert (config.task, config.model) == ("segmentation", 18)
    assert (config.num_epochs, config.zdim, config.batch_size, config.seed) == (2, 3, 6, 5)
    assert config.given == {"config", "task", "dataset", "batch_size", "seed"}


def test_a_flag_may_change_the_task_of_a_file(yaml_file):
    config = parse([f"--config={yaml_file('task: segmentation')}", "--task=classification"])
    assert config == parse(["--task=classification"])


def test_given_is_empty_where_nothing_was_said_and_survives_replace():
    assert parse([]).given == frozenset()
    config = parse(["--seed=0"]).replace(batch_size=4)
    assert (config.given, config.batch_size) == ({"seed"}, 4)


def test_the_command_asks_for_what_was_given_by_flag(yaml_file):
    path = yaml_file("batch_size: 64")
    config = parse([f"--config={path}", "--seed=3", "--freeze", "--input_size", "8 9"])
    assert config.command() == [f"--config={path}", "--seed=3", "--input_size=8 9", "--freeze=True"]
    assert parse(config.command()) == config and "typed" not in config.to_yaml()
    assert config.replace(input_size="96x64").input_size == (96, 64)


def test_cifar10_is_short_for_the_data_set(yaml_file):
    assert parse(["--cifar10=True"]).dataset == "cifar10"
    assert parse(["--cifar10", "--dataset=cifar10"]).dataset == "cifar10"
    assert parse(["--cifar10=False", "--dataset=stl10"]).dataset == "stl10"
    for other in ("--dataset=stl10", "--dataset=shapes", "--train_file_path=a.txt"):
        assert "Expected one data set" in refused("--cifar10", other)
    assert "Expected one data set" in refused("--dataset=stl10", "--train_file_path=a.txt")


@for_each(
    ("text", "flag", "expected"),
    [
        ("dataset: stl10", "--cifar10", ("cifar10", True, "")),
        ("cifar10: true", "--dataset=stl10", ("stl10", False, "")),
        ("cifar10: true", "--cifar10=False", ("shapes", False, "")),
        ("cifar10: true", "--train_file_path=b", ("shapes", False, "b")),
        ("dataset: stl10", "--train_file_path=b", ("shapes", False, "b")),
        ("train_file_path: a", "--dataset=stl10", ("stl10", False, "")),
        ("train_file_path: a", "--cifar10", ("cifar10", True, "")),
        ("train_file_path: a", "--cifar10=False", ("shapes", False, "a")),
        ("dataset: cifar10", "--cifar10=False", ("cifar10", False, "")),
    ],
)
def test_a_flag_that_chooses_the_data_drops_the_choice_of_the_file(yaml_file, text, flag, expected):
    config = parse([f"--config={yaml_file(text)}", flag])
    config.validate()
    assert (config.dataset, config.cifar10, config.train_file_path) == expected


# -- YAML --


@for_each("name", [name for name in SETTINGS if name != "config"])
def test_every_default_returns_from_yaml(yaml_file, name):
    path = yaml_file(Config().to_yaml())
    assert getattr(Config.resolve(config=path), name) == getattr(Config(), name)


@for_each(
    "words",
    [
        [],
        ["--task=classification", "--cifar10", "--freeze", "--no-blur", "--learning_rate=1e-5"],
        ["--train_file_path=/tmp/ä b: c#d.txt", "--val_file_path='x'", "--input_size=240x320"],
        ["--dataset=folder:C:\\x y", "--xla=true", "--strategy=none", "--blur", "--resume"],
        ["--task=segmentation", "--train_file_path=/x\udcff", f"--init_weights={'long ' * 50}"],
        ["--finetune_save_path=no", "--pretrain_save_path=2024-01-01", "--val_file_path=1e3"],
    ],
)
def test_yaml_round_trip(yaml_file, words):
    config = parse(words)
    again = Config.resolve(config=yaml_file(config.to_yaml()))
    assert again == config
    assert again.to_yaml() == config.to_yaml()


def test_yaml_of_a_run_can_be_changed_by_flags(yaml_file):
    path = yaml_file(parse(["--seed=7"]).to_yaml())
    assert parse([f"--config={path}", "--zdim=9"]) == parse(["--seed=7", "--zdim=9"])


@for_each(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-3", "learning_rate", 1e-3),  # YAML 1.1 reads it as text
        ("learning_rate: 1", "learning_rate", 1.0),
        ("input_size: [240, 320]", "input_size", (240, 320)),
        ("input_size: 240x320", "input_size", (240, 320)),
        ("input_size: 240", "input_size", (240, 240)),
        ("blur: null", "blur", None),
        ("blur: auto", "blur", None),
        ("blur: off", "blur", False),
        ("freeze: yes", "freeze", True),
        ("freeze: 'no'", "freeze", False),
        ("xla: true", "xla", "true"),
        ("cache: no", "cache", "false"),
        ("lr_scaling: none", "lr_scaling", "none"),
        ("model: '34'", "model", 34),
        ("train_file_path: 12", "train_file_path", "12"),
    ],
)
def test_yaml_values(yaml_file, text, name, value):
    assert getattr(parse([f"--config={yaml_file(text)}"]), name) == value


@for_each(
    "text",
    [
        "batch_size: many",
        "num_classes: many",
        "batch_size: 2.5",
        "batch_size: [2]",
        "batch_size: true",
        "batch_size: {a: 1}",
        "batch_size:",
        "freeze: maybe",
        "freeze:",
        "freeze: 2",
        "temperature: hot",
        "train_file_path: [a, b]",
        "train_file_path: 2024-01-01",
        "input_size: [1, 2, 3]",
        "input_size: [a, b]",
        "input_size: {h: 3}",
        "optimizer: nonsense",
        "optimizer: 3",
        "model: 18.0",
    ],
)
def test_a_wrong_value_in_yaml_names_file_and_key(yaml_file, text):
    path, name = yaml_file(text), text.partition(":")[0]
    message = refused(f"--config={path}")
    assert f"for {name} in {path}, got" in message
    assert ("TEXT" in message) == (SETTINGS[name].default == "")


@for_each(
    ("text", "guess"),
    [("batchsize: 3", "batch_size"), ("batch-size: 3", "batch_size"), ("lr: 3", "learning_rate")],
)
def test_an_unknown_key_in_yaml_names_file_and_nearest(yaml_file, text, guess):
    path = yaml_file(text)
    message = refused(f"--config={path}")
    assert path in message
    assert f"Did you mean {guess}?" in message


@for_each("text", ["config: other.yaml", "given: [a]", "3: 4", "null: 1", "help: 1"])
def test_keys_that_are_no_settings(yaml_file, text):
    path = yaml_file(text)
    assert f"Expected the name of a setting in {path}" in refused(f"--config={path}")


@for_each(
    "text",
    [
        "",
        "# nothing\n",
        "- a\n- b",
        "hello",
        "12",
        "a: [",
        "a: b: c",
        "\tseed: 1",
        b"\xff\xfe\x00seed",
        b"\x00\x01\x02",
        "seed: !!int x",
        "seed: !!timestamp x",
        "seed: !!bool x",
        "seed: !!int ''",
        "seed: 2024-99-99",
        "seed: !!python/object/apply:os.getcwd []",
        "[a]: 1\n? {b: c}\n: 2",
        "seed: *nothing",
        "seed: &x [*x]",
        "[" * 3000,
    ],
)
def test_what_is_no_yaml_of_settings(yaml_file, text):
    path = yaml_file(text)
    assert path in refused(f"--config={path}")


def test_a_yaml_file_that_cannot_be_read(tmp_path):
    assert "No such file" in refused(f"--config={tmp_path / 'none.yaml'}")
    assert "directory" in refused(f"--config={tmp_path}")


@for_each("name", [name for name in SETTINGS if name != "config"])
def test_every_default_can_be_given_as_a_flag(name):
    default = SETTINGS[name].default
    assert getattr(parse([f"--{name}={show(default)}"]), name) == default
