"""Where the prompts of images come from: a table, a text file, captions, or a data set."""

from collections.abc import Iterable
from pathlib import Path

from medgen_data.captions import read_captions
from medgen_data.image_folder import read_image_folder
from medgen_data.importers.tables import read_table
from medgen_data.jsonl import read_text_file
from medgen_data.problems import DataError, Problem

from medgen_captioning.paraphrasing.strategies import ImageText

# Column of the text and column of the image, as MedVQA-GI, ROCOv2 and plain lists of prompts have them.
_LAYOUTS: tuple[tuple[str, str | None], ...] = (
    ("Prompt", "Filename"),
    ("Caption", "ID"),
    ("Prompt", None),
    ("Caption", None),
)


def read_image_texts(source: Path) -> tuple[list[ImageText], list[Problem]]:
    """Return the texts of images, and what is wrong with rows that were left out.

    Args:
        source: Data set folder (images are named by their file), `captions.jsonl` (by record id), csv with a
            column Prompt or Caption and maybe Filename or ID, or text file with one prompt per line. Without
            a name of the image, its line stands for it: `line000001`.

    Raises:
        DataError: If the source is missing, of another kind, malformed, or holds no text.
    """
    if source.is_dir():
        records = read_image_folder(source).records
        texts: Iterable[tuple[str, str, int | None]] = (
            (record.file_name, text, None) for record in records for text in record.text
        )
        return _usable(source, texts, [])
    match source.suffix.lower():
        case ".jsonl":
            captions = read_captions(source).values()
            return _usable(source, ((row.record_id, row.text, None) for row in captions), [])
        case ".csv" | ".tsv":
            return _of_table(source)
        case ".txt":
            lines = read_text_file(source).splitlines()
            return _usable(
                source, ((_line(n), text, n) for n, text in enumerate(lines, 1) if text.strip()), []
            )
        case _:
            raise DataError(
                f"{source}: expected a data set folder, or a file that ends in .csv, .tsv, .jsonl or .txt"
            )


def _of_table(file: Path) -> tuple[list[ImageText], list[Problem]]:
    header = read_text_file(file).split("\n", 1)[0].lower()
    layouts = (names for names in _LAYOUTS if all(name is None or name.lower() in header for name in names))
    text, image = next(layouts, ("Prompt", None))
    table = read_table(file, (text,) if image is None else (text, image))
    rows = (
        (_line(row.line) if image is None else row.cells[image], row.cells[text], row.line)
        for row in table.rows
    )
    return _usable(file, rows, list(table.problems))


def _usable(
    source: Path, rows: Iterable[tuple[str, str, int | None]], problems: list[Problem]
) -> tuple[list[ImageText], list[Problem]]:
    texts = []
    for image, text, line in rows:
        if not image or not text.strip():
            field, detail = ("Prompt", "has no text") if image else ("Filename", "names no image")
            problems.append(
                Problem(
                    file=source.name, row=line, field=field, code="empty-cell", detail=f"{detail}; left out"
                )
            )
            continue
        texts.append(ImageText(image, text.strip()))
    if not texts:
        raise DataError(f"{source}: holds no text to paraphrase" + "".join(f"; {p}" for p in problems[:1]))
    return texts, problems


def _line(number: int) -> str:
    return f"line{number:06}"
