"""The stages of an experiment in their order, each with what it depends on and what it leaves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from medgen_captioning.paraphrasing import ImageText, read_paraphrases
from medgen_data.captions import CaptionRow, read_captions
from medgen_data.fingerprint import file_sha256
from medgen_data.image_folder import ImageDataset, read_image_folder
from medgen_data.problems import DataError
from medgen_training import AdapterTrainConfig

from medgen_cli.output import print_note
from medgen_cli.plan import PlannedImage, own_texts, plan_images, texts_of_records
from medgen_cli.progress import ProgressLine
from medgen_cli.recipes import Recipe, describe_generator, result_name
from medgen_cli.run_folder import RunFolder, StageOutcome
from medgen_cli.settings import ParaphraseSettings
from medgen_cli.stages.captions import CaptionAccess, make_captions
from medgen_cli.stages.classification import classify_datasets
from medgen_cli.stages.data import make_dataset, source_fingerprint
from medgen_cli.stages.paraphrases import paraphrase_for_training
from medgen_cli.stages.privacy import AUDIT_NAME
from medgen_cli.stages.scoring import files_of_dataset, score_files
from medgen_cli.stages.synthesis import SyntheticSetCard, draw_images, draw_untrained_images
from medgen_cli.stages.training import train_model, training_records
from medgen_cli.stages.training_texts import UNCHANGED, TrainingTexts, texts_to_train_on


class Walk:
    """One recipe in one run folder; each method runs a stage if what it depends on has changed.

    Args:
        recipe: The experiment.
        run: Its open run folder.
        device: Where tensors live.
        allow_egress: Hosts besides this machine that images may be sent to for captions.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, device: str, allow_egress: Sequence[str]) -> None:
        self.recipe = recipe
        self.allow_egress = allow_egress
        self.run = run
        self.device = device
        self.settings = recipe.model_dump(mode="json")
        self.dataset_dir = run.run_dir / "data" / "dataset"
        self.captions_file = run.run_dir / "captions" / "captions.jsonl"
        self.paraphrases_file = run.run_dir / "paraphrases" / "paraphrases.csv"
        self.train_dir = run.run_dir / "train"
        self.generator_dir = self.train_dir / result_name(recipe.train)
        self.synthetic_dir = run.run_dir / "synthetic" / "dataset"
        self.untrained_dir = run.run_dir / "synthetic" / "untrained"
        self.scores_dir = run.run_dir / "scores"
        self.classify_dir = run.run_dir / "classify"

    def all_stages(self) -> None:
        """Walk from the source images to the report."""
        self.make_data()
        self.caption()
        if self.recipe.paraphrase is not None:
            self.paraphrase(self.recipe.paraphrase)
        self.train()
        self.sample()
        self.score()
        if self.recipe.classify is not None:
            self.classify()
        self.report()

    def make_data(self) -> None:
        """Make or import the data set; depends on the source and on how it is cut and split."""
        root = self.recipe.data.root
        inputs = []
        if root is not None:
            sha256 = source_fingerprint(root)
            self.run.add_input(root, sha256)
            inputs.append(sha256)

        def do(progress: ProgressLine) -> StageOutcome:
            done = make_dataset(
                self.recipe.data, self.dataset_dir, seed=self.recipe.seed, on_progress=progress
            )
            files = (self.dataset_dir / "dataset.json", self.dataset_dir / "metadata.jsonl")
            splits = [record.split for record in done.dataset.records]
            figures = {
                "num_images": len(splits),
                "num_train": splits.count("train"),
                "num_test": splits.count("test"),
                "labels": list(done.dataset.card.labels),
                "fingerprint": done.dataset.card.fingerprint,
            }
            return StageOutcome(files, figures, len(done.problems))

        self._stage("data", self.settings["data"], inputs, do)

    def caption(self) -> None:
        """Write a caption for every image; depends on the data set."""

        def do(progress: ProgressLine) -> StageOutcome:
            done = make_captions(
                self.dataset,
                self.captions_file,
                self.recipe.caption,
                seed=self.recipe.seed,
                access=CaptionAccess(allow_egress=self.allow_egress),
                on_progress=progress,
            )
            if done.num_unanswered:
                raise DataError(
                    f"{done.num_unanswered} images have no caption yet, the first: {done.problems[0]}\n"
                    "run the same command again when the server answers: what is done is kept"
                )
            figures = {"num_captions": done.num_written + done.num_reused}
            return StageOutcome((self.captions_file,), figures, len(done.problems))

        # Whether training mirrors images is no matter of what is captioned.
        settings = {name: value for name, value in self.settings["caption"].items() if name != "flips"}
        self._stage("captions", settings, self.run.outputs_of("data"), do)

    def paraphrase(self, settings: ParaphraseSettings) -> None:
        """Reword the training texts, or read rewordings from a file; depends on data set and captions."""
        inputs = [*self.run.outputs_of("data"), *self.run.outputs_of("captions")]
        if settings.file is not None:
            sha256 = file_sha256(settings.file)
            self.run.add_input(settings.file, sha256)
            inputs.append(sha256)

        def do(progress: ProgressLine) -> StageOutcome:
            records = training_records(self.described).records
            images = [
                ImageText(r.record_id, text) for r in records for text in self.texts[r.record_id] if text
            ]
            done = paraphrase_for_training(
                images, self.paraphrases_file, settings, seed=self.recipe.seed, on_progress=progress
            )
            return StageOutcome(
                (self.paraphrases_file,), {"num_paraphrases": done.num_rows}, done.num_problems
            )

        self._stage("paraphrases", self.settings["paraphrase"], inputs, do)

    def train(self) -> None:
        """Train the generator; depends on data set, texts and the local folders it starts from."""

        def do(progress: ProgressLine) -> StageOutcome:
            from medgen_models import model_sha256

            model_dir = train_model(
                self.described,
                self._training_texts(),
                self.recipe.train,
                self.train_dir,
                seed=self.recipe.seed,
                device=self.device,
                resume=True,
                progress=progress,
            )
            files = tuple(sorted(file for file in model_dir.rglob("*") if file.is_file()))
            return StageOutcome(files, {f"{model_dir.name}_sha256": model_sha256(model_dir)})

        inputs = [*self.run.outputs_of("data"), *self.run.outputs_of("captions"), *self._local_models()]
        caption = self.settings["caption"]
        settings = [self.settings["train"], caption["dataset_texts"]]
        if self.recipe.paraphrase is not None:
            inputs += self.run.outputs_of("paraphrases")
        if self.recipe.paraphrase is not None or caption["flips"]:
            settings += [self.settings["paraphrase"], caption["flips"]]
        self._stage("train", settings, inputs, do)

    def _training_texts(self) -> TrainingTexts:
        settings = self.recipe.paraphrase
        rows = read_paraphrases(self.paraphrases_file, judged=False)[0] if settings is not None else []
        return texts_to_train_on(
            training_records(self.described),
            self.texts,
            rows=rows,
            config=settings or UNCHANGED,
            flips=self.recipe.caption.flips,
        )

    def _local_models(self) -> list[str]:
        """Return the hashes of the folders that an adapter's training reads: other weights, another training."""
        train = self.recipe.train
        if not isinstance(train, AdapterTrainConfig):
            return []
        from medgen_models import model_sha256

        folders = [Path(name) for name in (train.base, train.prior_base) if name and Path(name).is_dir()]
        hashes = [model_sha256(folder) for folder in folders]
        for folder, sha256 in zip(folders, hashes, strict=True):
            self.run.add_input(folder, sha256)
        return hashes

    def sample(self) -> None:
        """Draw the synthetic set, and images of the untrained generator beside it if asked for."""

        def do(progress: ProgressLine) -> StageOutcome:
            drawn = draw_images(
                self.generator_dir,
                self.plan,
                self.recipe.sample.sampling(),
                self.synthetic_dir,
                card=self._card(
                    f"{describe_generator(self.recipe.train)} trained on {self.dataset.card.name}"
                ),
                device=self.device,
                options=self.recipe.sample.generator_options(),
                on_progress=progress,
            )
            files = [self.synthetic_dir / "dataset.json", self.synthetic_dir / "metadata.jsonl"]
            if self.recipe.sample.untrained_reference:
                self._sample_untrained(progress)
                files += [self.untrained_dir / "dataset.json", self.untrained_dir / "metadata.jsonl"]
            return StageOutcome(tuple(files), {"num_images": drawn.num_drawn + drawn.num_kept})

        # The prompts of the plan come from data and captions, its images from the model.
        inputs = [output for stage in ("data", "captions", "train") for output in self.run.outputs_of(stage)]
        self._stage("synthetic", self.settings["sample"], inputs, do)

    def _sample_untrained(self, progress: ProgressLine) -> None:
        draw_untrained_images(
            self.plan,
            self.recipe.sample.sampling(),
            self.untrained_dir,
            trained=self.recipe.train,
            model_dir=self.generator_dir,
            seed=self.recipe.seed,
            card=self._card(
                f"{describe_generator(self.recipe.train)} without training, seed {self.recipe.seed}"
            ),
            device=self.device,
            options=self.recipe.sample.generator_options(),
            on_progress=lambda done, total: progress(done, total, phase="untrained"),
        )

    def score(self) -> None:
        """Compare synthetic and real images; depends on both sets."""

        def do(progress: ProgressLine) -> StageOutcome:
            real = files_of_dataset(_reference_records(self.dataset))
            sheets = {"scores.json": self.synthetic_dir}
            if self.recipe.sample.untrained_reference:
                sheets["scores_untrained.json"] = self.untrained_dir
            for name, dataset_dir in sheets.items():
                score_files(
                    real,
                    files_of_dataset(read_image_folder(dataset_dir)),
                    self.recipe.score,
                    self.scores_dir / name,
                    seed=self.recipe.seed,
                    device=self.device,
                    # The untrained model has seen no image that it could give back.
                    trained_on=self.dataset if dataset_dir == self.synthetic_dir else None,
                    on_progress=progress,
                )
            written = [name for name in (*sheets, AUDIT_NAME) if (self.scores_dir / name).is_file()]
            return StageOutcome(tuple(self.scores_dir / name for name in written), {})

        inputs = [*self.run.outputs_of("data"), *self.run.outputs_of("synthetic")]
        self._stage("scores", self.settings["score"], inputs, do)

    def classify(self) -> None:
        """Train classifiers on synthetic and on real images; depends on both sets."""
        settings = self.recipe.classify
        assert settings is not None

        def do(progress: ProgressLine) -> StageOutcome:
            classify_datasets(
                self.dataset,
                read_image_folder(self.synthetic_dir),
                settings,
                self.classify_dir,
                seed=self.recipe.seed,
                device=self.device,
                on_step=lambda name, step, total: progress(step, total, phase=name),
            )
            names = ["recognition.json", *(["classification.json"] if settings.compare else [])]
            return StageOutcome(tuple(self.classify_dir / name for name in names), {})

        inputs = [*self.run.outputs_of("data"), *self.run.outputs_of("synthetic")]
        self._stage("classify", self.settings["classify"], inputs, do)

    def report(self) -> None:
        """Write the page that shows what every stage before it left."""

        def do(_: ProgressLine) -> StageOutcome:
            from medgen_cli.report import build_report

            report_file = build_report(self.run.run_dir)
            return StageOutcome((report_file, report_file.with_suffix(".json")), {})

        inputs = [output for stage in self.run.record.stages for output in self.run.outputs_of(stage)]
        self._stage("report", self.settings, [output for output in inputs if "report." not in output], do)

    def _stage(
        self, name: str, settings: object, inputs: Sequence[str], do: Callable[[ProgressLine], StageOutcome]
    ) -> None:
        def with_progress() -> StageOutcome:
            with ProgressLine(name) as progress:
                return do(progress)

        done = self.run.run_stage(name, config=[settings, self.recipe.seed], inputs=inputs, do=with_progress)
        if not done:
            print_note(f"{name}: finished already, nothing changed")

    def _card(self, source: str) -> SyntheticSetCard:
        card = self.dataset.card
        return SyntheticSetCard(
            name=f"{self.recipe.name}-synthetic", modality=card.modality, source=source, licence=card.licence
        )

    @cached_property
    def dataset(self) -> ImageDataset:
        """The real images, all splits."""
        return read_image_folder(self.dataset_dir)

    @cached_property
    def captions(self) -> Mapping[str, CaptionRow]:
        """The captions to train on."""
        return read_captions(self.captions_file) if self.recipe.caption.train_on_captions else {}

    @cached_property
    def described(self) -> ImageDataset:
        """The images with a text: one that could not be captioned is a problem of its own, not of the run."""
        wanted = self.recipe.caption.dataset_texts
        records = [
            record
            for record in self.dataset.records
            if record.record_id in self.captions or own_texts(record, wanted)
        ]
        return replace(self.dataset, records=tuple(records))

    @cached_property
    def texts(self) -> Mapping[str, tuple[str, ...]]:
        """All texts of every record, as the recipe mixes captions and texts of the data set."""
        wanted = self.recipe.caption.dataset_texts
        return texts_of_records(self.described, self.captions, dataset_texts=wanted)

    @cached_property
    def plan(self) -> tuple[PlannedImage, ...]:
        """The images to draw: prompt, label and seed of each."""
        sample = self.recipe.sample
        return plan_images(
            self.described.select(split=sample.prompts_from).records,
            self.texts,
            seed=self.recipe.seed,
            num_images=sample.num_images,
            per_class=sample.per_class,
        )


def _reference_records(dataset: ImageDataset) -> ImageDataset:
    """Return the real images that the model never saw; every image if the set has no test split."""
    try:
        return dataset.select(split="test")
    except DataError:
        return dataset
