import pytest
from medgen_classify import PAPER_BACKBONE, ClassifyConfig, paper_config
from pydantic import ValidationError


def test_paper_config_is_the_classifier_of_med_art() -> None:
    config = paper_config()
    assert config.backbone == PAPER_BACKBONE == "google/vit-base-patch16-224-in21k"
    assert (config.learning_rate, config.epochs, config.schedule, config.flips) == (
        2e-5,
        5,
        "constant",
        False,
    )


def test_defaults_follow_the_backbone() -> None:
    assert ClassifyConfig(backbone="some/folder").learning_rate == 2e-5
    assert ClassifyConfig(backbone="tiny") == ClassifyConfig()
    assert ClassifyConfig().learning_rate == 2e-3


def test_a_given_field_wins_over_the_default_of_the_backbone() -> None:
    config = ClassifyConfig(backbone="some/folder", epochs=1)
    assert (config.epochs, config.learning_rate) == (1, 2e-5)


def test_config_survives_json() -> None:
    config = paper_config(attribute="facts.quadrant")
    assert ClassifyConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [("attribute", "quadrant"), ("attribute", "facts."), ("epochs", 0), ("learning_rate", 0.0), ("epoch", 3)],
)
def test_refuses_a_wrong_field_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        ClassifyConfig.model_validate({field: value})
