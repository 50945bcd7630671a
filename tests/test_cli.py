"""The command line: exit codes, one message and no traceback, no TensorFlow before a task."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import main as face
from simclr_tf import cli, environment
from simclr_tf.config.settings import SETTINGS, TASKS, Config
from simclr_tf.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def task(monkeypatch):
    """Puts `task(run)` in the place of every task; without TensorFlow."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    module = ModuleType("fake_task")
    fakes = {name: "fake_task" for name in TASKS if name != "export"}
    monkeypatch.setattr("simclr_tf.tasks.TASKS", fakes)
    monkeypatch.setitem(sys.modules, "fake_task", module)

    def install(run):
        module.run = run

    return install


def failing(error: BaseException):
    def run(config: Config) -> dict:
        raise error

    return run


def python(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )


def test_a_task_is_run_with_its_config(task):
    seen = []
    task(lambda config: seen.append(config) or {})
    assert face.main(["--task=classification", "--freeze=True"]) == 0
    assert (seen[0].task, seen[0].freeze) == ("classification", True)


def test_the_words_of_the_process_are_the_default(task, monkeypatch):
    seen = []
    task(lambda config: seen.append(config.seed) or {})
    monkeypatch.setattr(sys, "argv", ["main.py", "--seed=5"])
    assert face.main() == 0
    assert face.main([]) == 0
    assert seen == [5, 0]


@pytest.mark.parametrize(
    "words",
    [
        ["--temprature=1"],
        ["--batch_size=many"],
        ["--batch_size"],
        ["--temperature=0"],
        ["--config=/no/such/file.yaml"],
        ["--no-freeze=True"],
        ["pretrain"],
    ],
)
def test_a_wrong_command_ends_with_2_and_one_line(task, capsys, words):
    task(lambda config: pytest.fail("the task ran"))
    assert face.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)


def test_a_mistake_in_the_data_ends_with_2(task, capsys):
    task(failing(UserError("Expected labels in [0, 10), got 12.")))
    assert face.main([]) == 2
    assert capsys.readouterr().err == "error: Expected labels in [0, 10), got 12.\n"


@pytest.mark.parametrize(
    ("error", "path", "reason"),
    [
        (PermissionError(13, "Permission denied", "/root/run"), "/root/run", "Permission denied"),
        (NotADirectoryError(20, "Not a directory", "a.txt/run"), "a.txt/run", "Not a directory"),
        (OSError(28, "No space left on device"), "files", "No space left on device"),
        (OSError("cannot"), "files", "cannot"),
    ],
)
def test_a_path_that_cannot_be_used_ends_with_2(task, capsys, error, path, reason):
    task(failing(error))
    assert face.main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: Expected to read and write {path}, got: {reason}. ")
    assert "--pretrain_save_path" in err
    assert face.main(["--task=embed"]) == 2
    assert "--finetune_save_path" in capsys.readouterr().err


def test_an_interrupt_ends_with_130_and_tells_how_to_go_on(task, capsys):
    task(failing(KeyboardInterrupt()))
    assert face.main([]) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--resume" in err


def test_a_flag_that_does_nothing_is_named_in_a_line_and_is_no_error(task, capsys):
    task(lambda config: {})
    assert face.main(["--temperature=0.2", "--dice_weight=1", "--tile_size=64"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("not used by --task=pretrain: --dice_weight, --tile_size\n", "")
    assert face.main(["--temperature=0.2"]) == 0
    assert capsys.readouterr().out == ""


def test_help_says_which_tasks_read_a_setting():
    text = " ".join(cli.describe().split())
    assert "LOSS, read by pretrain" in text and "DATA, read by all tasks but export" in text
    assert "cross-entropy of pixels. 0 or more. Read by segmentation." in text
    assert "Largest angle to either side, degrees. Read with --rotate." in text


def test_sigterm_ends_a_task_as_ctrl_c_does(task, capsys):
    before = signal.getsignal(signal.SIGTERM)
    task(lambda config: signal.raise_signal(signal.SIGTERM))
    assert face.main([]) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_fault_of_the_program_is_not_hidden(task):
    task(failing(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        face.main([])


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--nonsense", "--help"]])
def test_help_shows_every_setting(capsys, words):
    assert face.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  --{name} " in out for name in SETTINGS)
    assert max(map(len, out.splitlines())) <= 100


def test_help_shows_defaults_choices_ranges_and_presets(monkeypatch):
    monkeypatch.setattr(cli, "PRESETS", {"embed": {"zdim": 7}, "check": {"zdim": 7}})
    monkeypatch.setattr(cli, "DATA_PRESETS", {("pretrain", "shapes"): {"zdim": 9}})
    text = " ".join(cli.describe().split())
    assert "--batch_size 256 Images per step. 2 or more." in text
    assert "One of auto, small, imagenet." in text
    assert "7 for embed, check. 9 for pretrain on shapes." in text


@pytest.mark.parametrize("script", ["main.py", "config.py"])
def test_the_faces_answer_at_once(script):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = python(script, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, not of the clock, which other work moves too.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert (result.returncode, result.stderr) == (0, "")
    assert "--learning_rate" in result.stdout


@pytest.mark.parametrize("words", ["['--help']", "['--temprature=1']"])
def test_tensorflow_is_not_loaded_before_a_task(words):
    code = (
        f"import sys, config, main; main.main({words}); config.Config().validate();"
        "sys.exit(bool({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    assert python("-c", code).returncode == 0


def test_the_exit_code_reaches_the_shell():
    result = python("main.py", "--temprature=1")
    assert result.returncode == 2
    assert result.stderr == (
        "error: Expected a known flag, got --temprature. Did you mean --temperature?\n"
    )


def test_help_into_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "main.py", "--help"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_the_environment_is_changed_by_a_run_only_and_the_user_wins(task, monkeypatch):
    task(lambda config: {})
    for name in ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    face.main(["--help"])
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    face.main([])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    assert os.environ["GRPC_VERBOSITY"] == "ERROR"
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_the_chatter_of_an_import_is_dropped_and_the_rest_passed_on(task, monkeypatch, capfd):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    task(lambda config: os.write(2, b"I0000 00:00:1.2  7 run.cc:1] said by the task\n") and {})
    lines = [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1795312214.157228    4532 port.cc:153] oneDNN custom operations are on.",
        "2025-09-17 14:44:05.157831: I external/x/cudart_stub.cc:32] Could not find cuda drivers",
        "a warning worth reading",
        "F0000 00:00:1795312214.1    4532 fatal.cc:1] worth reading too",
    ]
    real = importlib.import_module

    def import_module(name):
        os.write(2, "".join(f"{line}\n" for line in lines).encode())
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    assert face.main([]) == 0
    err = capfd.readouterr().err.splitlines()
    assert err == [*lines[3:], "I0000 00:00:1.2  7 run.cc:1] said by the task"]


def test_an_import_that_fails_shows_its_traceback(task, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    monkeypatch.setitem(sys.modules, "fake_task", None)
    with pytest.raises(ImportError):
        face.main([])


def test_no_word_ends_in_system_exit(task, capsys):
    task(lambda config: {})
    for word in ("-h", "--version", "--", "-", "", "@file", "--x", "-1", "--seed=-1", "--=", "%s"):
        assert face.main([word]) in (0, 2)


PROGRAMS = ["main.py", "config.py", "-m simclr_tf.cli", "-m simclr_tf.data.service"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_the_environment_a_program_says_how_to_make_it(program):
    """`-S`: a Python without packages, as the system's own."""
    done = python("-S", "-E", *program.split(), "--input_size=96 96")
    assert done.returncode == cli.WRONG
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Expected the packages of requirements.txt, got no module ")
    assert "tensorflow" in line and "yaml" in line and sys.executable in line
    assert f".venv/bin/python {program} '--input_size=96 96'`." in line
    assert (ROOT / ".venv/bin/python").exists() or "`make setup`" in line
    assert not done.stdout


def test_an_old_python_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    monkeypatch.setattr(sys, "orig_argv", ["python3", "main.py", "--task=check"])
    monkeypatch.setattr(environment, "_ROOT", str(tmp_path))
    (tmp_path / "requirements.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert environment.find_fault() == (
        f"Expected Python 3.10 or newer, got 3.9 as {sys.executable}. "
        "Run `make setup`, then `.venv/bin/python main.py --task=check`."
    )


@pytest.mark.parametrize(
    "name",
    [
        "main.py",
        "config.py",
        "simclr_tf/__init__.py",
        "simclr_tf/cli.py",
        "simclr_tf/environment.py",
        "simclr_tf/errors.py",
        "simclr_tf/data/__init__.py",
        "simclr_tf/data/service.py",
    ],
)
def test_what_is_read_before_the_check_is_read_by_an_old_python(name):
    ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 7))


def test_every_package_looked_for_is_a_requirement():
    needed = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    homes = importlib.metadata.packages_distributions()
    for name in environment.PACKAGES:
        assert {home.lower() for home in homes[name]} & {each.lower() for each in needed}, name
    oldest = ".".join(map(str, environment.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


def test_the_command_line_is_a_module_too():
    done = python("-m", "simclr_tf.cli", "--help")
    assert done.returncode == 0 and "--task" in done.stdout
