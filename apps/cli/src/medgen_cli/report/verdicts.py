"""The figures at the head of the page: one question, one number, one interval, one sentence each."""

from dataclasses import dataclass
from typing import Literal

from medgen_cli.report.gather import RunFacts
from medgen_cli.report.numbers import as_interval, as_number, as_percent, as_percent_interval, attribute_name
from medgen_cli.report.sheets import PrivacyAudit, Score, ScoreFile

FRECHET = "frechet"


@dataclass(frozen=True)
class Verdict:
    """One figure at the head of the page; `value` is None if its stage was not run."""

    key: str
    question: str
    value: float | None
    interval: tuple[float, float] | None
    note: str
    unit: Literal["number", "share", "ratio"] = "number"

    @property
    def text(self) -> str:
        """The value as the page prints it."""
        if self.unit == "share":
            return as_percent(self.value)
        return as_number(self.value) + (" ×" if self.unit == "ratio" else "")

    @property
    def interval_text(self) -> str:
        """The interval as the page prints it."""
        return as_percent_interval(self.interval) if self.unit == "share" else as_interval(self.interval)


def verdicts(facts: RunFacts) -> tuple[Verdict, ...]:
    """Return the figures at the head of the page, in order; those of stages not run have no value."""
    return (
        _frechet(facts.scores),
        _gain(facts),
        *_recognised(facts),
        *_usefulness(facts),
        *_copies(facts.privacy),
    )


def _frechet(scores: ScoreFile | None) -> Verdict:
    question = "How far are the synthetic images from the real ones? (Fréchet distance, lower is better)"
    score = _find_frechet(scores)
    if score is None:
        return Verdict("frechet", question, None, None, "The stage scores writes this figure.")
    note = (
        f"{score.num_synthetic} synthetic against {score.num_real} real images, seen by {score.extractor.id}."
    )
    return Verdict("frechet", question, score.value, score.interval, note)


def _gain(facts: RunFacts) -> Verdict:
    question = "How much nearer than before training? (untrained distance / trained distance)"
    trained, untrained = _find_frechet(facts.scores), _find_frechet(facts.scores_untrained)
    if trained is None or untrained is None or not trained.value or untrained.value is None:
        return Verdict("frechet_untrained_ratio", question, None, None, "The untrained model was not scored.")
    interval = f" (95% interval {as_interval(untrained.interval)})" if untrained.interval else ""
    note = f"The same model before training lies at {as_number(untrained.value)}{interval}."
    return Verdict(
        "frechet_untrained_ratio", question, untrained.value / trained.value, None, note, unit="ratio"
    )


def _recognised(facts: RunFacts) -> list[Verdict]:
    if facts.recognition is None:
        question = "Does a classifier see what the prompt asked for?"
        return [Verdict("recognised", question, None, None, "The stage classify writes this figure.")]
    rows = []
    for attribute, seen in facts.recognition.root.items():
        name = attribute_name(attribute)
        note = (
            f"{seen.synthetic.num_images} synthetic images, judged by a classifier trained on real ones; it is "
            f"right on {as_percent(seen.real_test.accuracy.value)} of the held-out real images."
        )
        accuracy = seen.synthetic.accuracy
        question = f"Does a classifier see the {name} that was asked for?"
        key = f"recognised_{name}"
        rows.append(Verdict(key, question, accuracy.value, accuracy.interval, note, unit="share"))
    return rows


def _usefulness(facts: RunFacts) -> list[Verdict]:
    question = "How good is a classifier that saw synthetic images only? (weighted F1 on real images)"
    if facts.classification is None:
        return [
            Verdict("weighted_f1_synthetic_only", question, None, None, "The stage classify writes this.")
        ]
    synthetic = facts.classification.synthetic_only.weighted_f1
    real = facts.classification.real_only.weighted_f1
    interval = f" (95% interval {as_interval(real.interval)})" if real.interval else ""
    note = f"The same classifier trained on the real images reaches {as_number(real.value)}{interval}."
    return [Verdict("weighted_f1_synthetic_only", question, synthetic.value, synthetic.interval, note)]


def _copies(audit: PrivacyAudit | None) -> list[Verdict]:
    # An audit is asked for in the recipe; without one there is nothing to miss.
    if audit is None:
        return []
    question = "How many synthetic images are copies of training images?"
    note = (
        f"{audit.num_flagged} of {audit.num_synthetic} are nearer to one of {audit.num_train} training images than "
        f"held-out real images are; {as_number(audit.expected_by_chance)} would be by chance."
    )
    return [Verdict("copy_rate", question, audit.copy_rate, audit.interval, note, unit="share")]


def _find_frechet(scores: ScoreFile | None) -> Score | None:
    if scores is None:
        return None
    return next((score for score in scores.scores if score.name.startswith(FRECHET)), None)
