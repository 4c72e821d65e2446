"""Images without an accepted caption, with every draft and why it failed."""

from dataclasses import dataclass
from pathlib import Path

from medgen_data.problems import Problem, list_briefly

from medgen_captioning.checks import Verdict
from medgen_captioning.requests import Question


@dataclass(frozen=True)
class Quarantined:
    """An image whose every draft failed a check."""

    question: Question
    rejected: tuple[tuple[int, Verdict], ...]

    def problem(self) -> Problem:
        """Return the image as one line among other problems."""
        reasons = [f"{name} {why}" for _, verdict in self.rejected for name, why in verdict.failed]
        return Problem(
            file=self.question.file_name,
            code="quarantined",
            detail=f"all {len(self.rejected)} drafts failed: {list_briefly(list(dict.fromkeys(reasons)), most=3)}",
        )

    def row(self) -> dict[str, object]:
        """Return the row of the quarantine file."""
        drafts = [
            {"seed": seed, "text": verdict.text, "failed": dict(verdict.failed)}
            for seed, verdict in self.rejected
        ]
        question = self.question
        return {
            "record_id": question.record_id,
            "file_name": question.file_name,
            "prompt": question.prompt,
            "drafts": drafts,
        }


def quarantine_file_of(captions_file: Path) -> Path:
    """Return where the rejected drafts of a captions file are kept."""
    return captions_file.with_name(f"{captions_file.stem}.quarantine.jsonl")
