"""What is asked about an image, and the key under which the answer is kept.

key = SHA-256 of (model identity, decoding settings, hash of the image file, prompt, seed)

The seed is a hash of the run's seed, the image and the number of the attempt, so the answer of an image does
not depend on the images around it, on the order or on the shard.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Question:
    """What is asked about one image.

    Attributes:
        record_id: Record the image belongs to.
        file_name: As in the data set, for messages.
        image_file: Where the image lies.
        image_sha256: Hash of the file.
        opening: What the answer must begin with.
        prompt: The request.
    """

    record_id: str
    file_name: str
    image_file: Path
    image_sha256: str
    opening: str
    prompt: str


@dataclass(frozen=True)
class Writer:
    """Who answers: everything about a model that its texts depend on.

    Attributes:
        name: Model name, for the captions file.
        identity: Name and content: a commit, a hash of the files, or an endpoint and what it says it serves.
        decoding: How words are drawn.
        draws: Whether another seed may give another text.
    """

    name: str
    identity: str
    decoding: Mapping[str, object]
    draws: bool


@dataclass(frozen=True)
class Draw:
    """One attempt at a caption."""

    question: Question
    attempt: int
    seed: int
    key: str


def draw(writer: Writer, question: Question, attempt: int, *, seed: int) -> Draw:
    """Return an attempt with its seed and key; attempts count from 0."""
    own_seed = attempt_seed(seed, question.image_sha256, attempt)
    key = answer_key(writer, question.image_sha256, question.prompt, own_seed)
    return Draw(question, attempt, own_seed, key)


def attempt_seed(seed: int, content: str, attempt: int) -> int:
    """Return the seed of an attempt: 31 bits, since not every server takes more."""
    return int(_sha256([seed, content, attempt])[:8], 16) & 0x7FFFFFFF


def answer_key(writer: Writer, image_sha256: str, prompt: str, seed: int) -> str:
    """Return the content key of an answer, as hex.

    Args:
        writer: Who answers.
        image_sha256: Hash of the image file; empty for a question without an image.
        prompt: The request.
        seed: Of this attempt; has no part in the key of a writer that draws nothing at random.
    """
    return _sha256(
        [writer.identity, dict(writer.decoding), image_sha256, prompt, seed if writer.draws else None]
    )


def _sha256(causes: list[object]) -> str:
    return hashlib.sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()
