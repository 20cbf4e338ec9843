import msgspec
import pytest
import yaml
from support.paths import CONFIGS

from anoseg_engines.errors import ConfigError
from anoseg_engines.strict_yaml import FORMAT
from anoseg_trainer.config import DEFECT_KINDS, TrainConfig, load_config


def test_reference_file_equals_the_defaults():
    """configs/train.yaml equals the defaults of the code."""
    assert load_config(CONFIGS / "train.yaml") == TrainConfig()


def test_reference_file_names_every_key():
    """No key of the code is missing from the reference file."""
    raw = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    assert raw.pop("format") == FORMAT  # of the file, whatever is in it
    assert raw.keys() == msgspec.to_builtins(TrainConfig()).keys()
    for name, section in raw.items():
        if isinstance(section, dict):
            assert section.keys() == msgspec.to_builtins(TrainConfig())[name].keys()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train*.yaml")), ids=lambda p: p.name)
def test_shipped_files_load(path):
    """Every shipped training configuration is valid."""
    load_config(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"trainning": {}}, ["trainning: unknown key", "did you mean 'training'"]),
        ({"training": {"batchsize": 3}}, ["line 2: training.batchsize: unknown key", "did you mean 'batch'"]),
        ({"training": {"batch": "many"}}, ["training.batch: expected a whole number"]),
        ({"training": {"batch": 0}}, ["training.batch"]),
        ({"training": {"steps": None, "minutes": None}}, ["never end"]),
        ({"loss": {"adversarial": -1}}, ["loss.adversarial"]),
        ({"input": {"height": 100}}, ["multiple of 32"]),
        ({"input": {"mode": "stretch"}}, ["input.mode"]),
        ({"input": {"height": 32, "overlap": 32}}, ["overlap"]),
        ({"training": {"crop": 100}}, ["training.crop", "multiple of 32"]),
        ({"network": {"widths": [16, 32]}}, ["network.widths"]),
        ({"network": {"memory_input": True, "encoder_rate": 0.1}}, ["network.memory_input", "network.encoder_rate above 0"]),
        ({"network": {"memory_input": True}, "detector": False}, ["network.memory_input", "detector: false"]),
        ({"defects": {"more": 1.0}}, ["defects.more"]),
        ({"defects": dict.fromkeys(DEFECT_KINDS, 0)}, ["defects", "every kind"]),
        ({"loss": {"l1": 0, "bce": 0, "dice": 0}}, ["loss.l1", "all 0"]),
        ({"holdout": {"group": "("}}, ["regular expression"]),
        (["a"], ["key: value"]),
    ],
)
def test_bad_values_are_refused_by_path(raw, said, tmp_path):
    """A wrong key or value is refused with its path, file and line, an unknown key with the nearest known one."""
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(raw, default_flow_style=False))
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "my.yaml")
    assert error.value.exit_code == 2
    for words in ["my.yaml, line ", *said]:
        assert words in str(error.value)


def test_a_file_may_set_one_side_of_the_input_alone(tmp_path):
    """Keys that a file leaves out keep their defaults, inside sections as well."""
    (tmp_path / "x.yaml").write_text("input: {width: 512}")
    config = load_config(tmp_path / "x.yaml")
    assert (config.input.width, config.input.height, config.input.overlap) == (512, None, TrainConfig().input.overlap)


def test_unreadable_and_broken_files_are_refused(tmp_path):
    """A missing file and a file that is not YAML are configuration errors."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\n")
    for path in (tmp_path / "none.yaml", broken):
        with pytest.raises(ConfigError, match=path.name):
            load_config(path)
