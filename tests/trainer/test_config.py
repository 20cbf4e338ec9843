import pytest
from support.paths import CONFIGS

from anoseg_engines.errors import ConfigError
from anoseg_trainer.config import DEFECT_KINDS, TrainConfig, config_from_mapping, load_config


def test_reference_file_equals_the_defaults():
    """configs/train.yaml says exactly what the code does without a file."""
    assert load_config(CONFIGS / "train.yaml") == TrainConfig()


def test_reference_file_names_every_key():
    """No key of the code is missing from the reference file."""
    import msgspec
    import yaml

    assert yaml.safe_load((CONFIGS / "train.yaml").read_text()).keys() == msgspec.to_builtins(TrainConfig()).keys()
    for name, section in yaml.safe_load((CONFIGS / "train.yaml").read_text()).items():
        if isinstance(section, dict):
            assert section.keys() == msgspec.to_builtins(TrainConfig())[name].keys()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train*.yaml")), ids=lambda p: p.name)
def test_shipped_files_load(path):
    """Every shipped training configuration is valid."""
    load_config(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"trainning": {}}, ["unknown key 'trainning'", "did you mean 'training'"]),
        ({"training": {"batchsize": 3}}, ["unknown key 'training.batchsize'", "did you mean 'training.batch'"]),
        ({"training": {"batch": "many"}}, ["training.batch", "int"]),
        ({"training": {"batch": 0}}, ["training.batch"]),
        ({"training": {"steps": None, "minutes": None}}, ["never end"]),
        ({"loss": {"adversarial": -1}}, ["loss.adversarial"]),
        ({"input": {"height": 100}}, ["multiple of 32"]),
        ({"input": {"mode": "stretch"}}, ["input.mode"]),
        ({"input": {"height": 32, "overlap": 32}}, ["overlap"]),
        ({"training": {"crop": 100}}, ["training.crop", "multiple of 32"]),
        ({"network": {"widths": [16, 32]}}, ["network.widths"]),
        ({"defects": {"more": 1.0}}, ["defects.more"]),
        ({"defects": dict.fromkeys(DEFECT_KINDS, 0)}, ["defects", "every kind"]),
        ({"loss": {"l1": 0, "bce": 0, "dice": 0}}, ["loss.l1", "all 0"]),
        ({"holdout": {"group": "("}}, ["regular expression"]),
        (["a"], ["key: value"]),
    ],
)
def test_bad_values_are_refused_by_path(raw, said):
    """A wrong key or value is refused with its path and the file's name, an unknown key with the nearest known one."""
    with pytest.raises(ConfigError) as error:
        config_from_mapping(raw, source="my.yaml")
    assert error.value.exit_code == 2
    for words in ["my.yaml", *said]:
        assert words in str(error.value)


def test_a_file_may_set_one_side_of_the_input_alone():
    """What a file leaves out keeps its default, inside sections as well."""
    config = config_from_mapping({"input": {"width": 512}}, source="x")
    assert (config.input.width, config.input.height, config.input.overlap) == (512, None, TrainConfig().input.overlap)


def test_unreadable_and_broken_files_are_told(tmp_path):
    """A missing file and a file that is no YAML are configuration errors."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\n")
    for path in (tmp_path / "none.yaml", broken):
        with pytest.raises(ConfigError, match=path.name):
            load_config(path)
