"""Studies: what is run, what is not run twice, and those that lie in configs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from simclr_tf.cli import parse
from simclr_tf.config.settings import Config

pytestmark = pytest.mark.scripts

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))


@pytest.fixture
def study(monkeypatch):
    """The script; `started` lists what it starts, of which the settings are read and no more."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    script = importlib.import_module("study")
    started: list[Config] = []

    def start(command, **_):
        config = parse(command[2:])
        started.append(config)
        folder = Path(config.save_path)
        found = {"loss": 10 * config.strength, "epochs": 1, "seconds": 1.0}
        found |= {"protocols": {"knn": {"mean": 0.5}}, "z": {"knn": {"mean": 0.25}}}
        (folder / "results.json").write_text(json.dumps(found))

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=start, DEVNULL=None))
    script.started = started
    return script


def test_every_variant_of_a_study_is_a_setting():
    for path in STUDIES:
        asked = yaml.safe_load(path.read_text())
        assert len(asked["variants"]) > 1
        for own in asked["variants"].values():
            settings = {**asked.get("settings", {}), **own}
            config = parse(
                [f"--config={path.parent / asked['config']}"]
                + [f"--{name}={value}" for name, value in settings.items()]
            )
            assert {name: getattr(config, name) for name in settings} == settings


def test_a_study_is_run_once_and_put_side_by_side(study, tmp_path, capsys):
    written = tmp_path / "study.yaml"
    (tmp_path / "base.yaml").write_text("zdim: 8\nbatch_size: 8\n")
    variants = {"1/8": {"strength": 0.125}, "1": {"strength": 1.0}}
    asked = {"config": "base.yaml", "settings": {"batch_size": 16}, "variants": variants}
    asked["evaluate"] = {"protocols": "knn"}
    written.write_text(yaml.safe_dump(asked, sort_keys=False))
    out = tmp_path / "out"
    words = [str(written), f"--out={out}", "--seeds=2", "--", "--num_epochs=4"]
    rows = study.main([*words[:3], f"--json={tmp_path / 'rows.json'}", *words[3:]])
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert [(row["variant"], row["seed"], row["loss"]) for row in rows] == [
        ("1/8", 0, 1.25),
        ("1/8", 1, 1.25),
        ("1", 0, 10.0),
        ("1", 1, 10.0),
    ]
    assert "| 1/8 | 1.250 ± 0.000 | 0.500 ± 0.000 | 0.250 ± 0.000 |" in capsys.readouterr().out
    first, judged, *_, compared = study.started
    assert (first.task, first.zdim, first.batch_size, first.num_epochs) == ("pretrain", 8, 16, 4)
    assert (judged.task, judged.pretrain_save_path) == ("evaluate", first.pretrain_save_path)
    assert compared.compare.split(",") == [
        str(out / n) for n in ("1_8_0_evaluated", "1_0_evaluated")
    ]
    assert len(study.started) == 2 * 2 * 2 + 1

    study.main(words)
    assert len(study.started) == 2 * 2 * 2 + 1
    # What was interrupted is resumed, where it had come to a checkpoint.
    (out / "1_1" / "results.json").unlink()
    (out / "1_1" / "checkpoints").mkdir()
    (out / "1_1" / "checkpoints" / "step-000000010.safetensors").touch()
    study.main(words)
    assert study.started[-1].resume and len(study.started) == 2 * 2 * 2 + 2
