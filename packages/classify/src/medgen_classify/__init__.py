"""What synthetic images are worth: a classifier trained on them alone, tested on real ones."""

from medgen_classify.backbone import MissingBackboneError
from medgen_classify.classifier import Classifier, TrainingFacts, load_classifier, save_classifier
from medgen_classify.config import PAPER_BACKBONE, ClassifyConfig, paper_config
from medgen_classify.evaluation import ClassFigures, Evaluation, evaluate_classifier, write_evaluation
from medgen_classify.intervals import Figure, wilson_interval
from medgen_classify.predict import Prediction, predict_probabilities, write_predictions
from medgen_classify.recognition import Recognition, recognition
from medgen_classify.train import train_classifier
from medgen_classify.utility import UtilityTable, compare_training_sets, paired_differences

__all__ = [
    "PAPER_BACKBONE",
    "ClassFigures",
    "Classifier",
    "ClassifyConfig",
    "Evaluation",
    "Figure",
    "MissingBackboneError",
    "Prediction",
    "Recognition",
    "TrainingFacts",
    "UtilityTable",
    "compare_training_sets",
    "evaluate_classifier",
    "load_classifier",
    "paired_differences",
    "paper_config",
    "predict_probabilities",
    "recognition",
    "save_classifier",
    "train_classifier",
    "wilson_interval",
    "write_evaluation",
    "write_predictions",
]
