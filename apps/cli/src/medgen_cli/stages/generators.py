"""What draws: a trained model, or an adapter with its base, found from the folder that training left."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medgen_cli.errors import UsageError

if TYPE_CHECKING:
    from medgen_models.adapters.folders import AdapterFacts
    from medgen_models.adapters.targets import AdapterFamily
    from medgen_models.base_models import BaseDtype

    Adapters = list[tuple[Path, AdapterFamily]]

_ADAPTER_FILE = "adapter.json"
_PRIOR: Final = "kandinsky22-prior"
_DECODER: Final = "kandinsky22-decoder"


@dataclass(frozen=True)
class Generator:
    """A generator in memory, and what its images are traced back to."""

    model: Any
    model_sha256: str  # hash of the folder, or hub:NAME@REVISION of a base that was no folder
    adapter_sha256: str | None = None


@dataclass(frozen=True)
class GeneratorOptions:
    """How an adapter finds the models it needs.

    Attributes:
        base: Where the base model is now, None: where it was in training.
        base_dtype: Of the weights while images are drawn.
        decoder: Decoder for an adapter of Kandinsky 2.2's prior: hub name, folder, or adapter folder.
        prior_adapter: Adapter of the prior, for a decoder of Kandinsky 2.2.
        without_adapter: Take the base alone, as it was before training.
    """

    base: str | None = None
    base_dtype: "BaseDtype" = "float32"
    decoder: str | None = None
    prior_adapter: Path | None = None
    without_adapter: bool = False


AS_TRAINED = GeneratorOptions()


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter, rather than a whole model."""
    return (folder / _ADAPTER_FILE).is_file()


def load_generator(folder: Path, options: GeneratorOptions, *, device: str) -> Generator:
    """Load a model folder, or an adapter folder with its base.

    Raises:
        AdapterError: If an adapter does not fit its base.
        MissingModelError: If model, adapter or base are not to be had.
        UnusableModelError: If a model is of another family, or its weights are pickled.
        UsageError: If an option means nothing to this folder, or one that it needs is not given.
    """
    from medgen_models import load_model, model_sha256
    from medgen_models.base_models import load_adapted

    if not is_adapter(folder):
        _refuse_options_of_adapters(folder, options)
        return Generator(load_model(folder, device=device), model_sha256(folder))
    facts = _facts(folder, options.base)
    _check_options(folder, facts.family, options)
    if facts.family == _PRIOR:
        return _prior_with_decoder(folder, facts, options, device=device)
    if options.prior_adapter is not None:
        adapters: Adapters = [(options.prior_adapter, _PRIOR)]
        if not options.without_adapter:
            adapters.append((folder, _DECODER))
        return _cascade(facts, adapters, options, device=device)
    if options.without_adapter:
        return _cascade(facts, [], options, device=device)
    model = load_adapted(folder, base=options.base, dtype=options.base_dtype, device=device)
    return Generator(model, _sha256_of_base(facts), model_sha256(folder))


def _prior_with_decoder(
    folder: Path, prior: "AdapterFacts", options: GeneratorOptions, *, device: str
) -> Generator:
    """Load a decoder, with or without an adapter, and put an adapter into its prior."""
    from medgen_models.adapters.folders import AdapterFacts

    assert options.decoder is not None
    adapters: Adapters = [] if options.without_adapter else [(folder, _PRIOR)]
    if is_adapter(Path(options.decoder)):
        facts = _facts(Path(options.decoder), None)
        if facts.family != _DECODER:
            raise UsageError(
                f"sample.decoder: {options.decoder} is an adapter of {facts.family}, not of {_DECODER}"
            )
        adapters.append((Path(options.decoder), _DECODER))
    else:
        facts = AdapterFacts(family=_DECODER, base_model=options.decoder)
    own_prior = facts.base_options.model_copy(update={"prior": prior.base_model})
    return _cascade(facts.model_copy(update={"base_options": own_prior}), adapters, options, device=device)


def _cascade(
    facts: "AdapterFacts",
    adapters: "Adapters",
    options: GeneratorOptions,
    *,
    device: str,
) -> Generator:
    """Load a base model and merge adapters into it or into its prior, by their family."""
    from medgen_models import model_sha256
    from medgen_models.adapters import load_adapter, merge_adapter
    from medgen_models.base_models import DTYPES, load_pretrained
    from medgen_models.protocol import Cascade

    model = load_pretrained(facts, device=device)
    for adapter_dir, family in adapters:
        if family == _PRIOR and not isinstance(model, Cascade):
            raise UsageError(
                "sample.prior_adapter: the decoder was trained without a prior; set train.prior_base"
            )
        parts = (model.prior if family == _PRIOR else model).components()
        base = facts.base_options.prior if family == _PRIOR else facts.base_model
        record = load_adapter(adapter_dir, parts, family=family, base_sha256=_folder_sha256(base))
        for part in record.parts:
            merge_adapter(parts[part])
    for module in model.components().values():
        module.to(DTYPES[options.base_dtype])
    hashes = [model_sha256(adapter_dir) for adapter_dir, _ in adapters]
    joined = hashlib.sha256("\n".join(hashes).encode()).hexdigest() if len(hashes) > 1 else None
    return Generator(model, _sha256_of_base(facts), joined or next(iter(hashes), None))


def _check_options(folder: Path, family: str, options: GeneratorOptions) -> None:
    if options.prior_adapter is not None and family != _DECODER:
        raise UsageError(
            f"sample.prior_adapter: belongs to an adapter of {_DECODER}; {folder} is of {family}"
        )
    if options.decoder is not None and family != _PRIOR:
        raise UsageError(f"sample.decoder: belongs to an adapter of {_PRIOR}; {folder} is of {family}")
    if options.decoder is None and family == _PRIOR:
        raise UsageError(
            f"{folder}: is an adapter of a prior, which gives embeddings and no pixels; name a decoder with "
            "--decoder (sample.decoder in a recipe), such as kandinsky-community/kandinsky-2-2-decoder"
        )


def _refuse_options_of_adapters(folder: Path, options: GeneratorOptions) -> None:
    given = {
        "--base": options.base,
        "sample.decoder": options.decoder,
        "sample.prior_adapter": options.prior_adapter,
    }
    if named := [name for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{folder}: has no {_ADAPTER_FILE}, so it is a whole model and {', '.join(named)} means nothing; "
            "give the adapter folder, or leave the option out"
        )


def _facts(adapter_dir: Path, base: str | None) -> "AdapterFacts":
    """Return what an adapter belongs to, its base being where the caller says."""
    from medgen_models.adapters import read_adapter_record
    from medgen_models.adapters.folders import AdapterFacts

    values = read_adapter_record(adapter_dir).model_dump(include=set(AdapterFacts.model_fields))
    facts = AdapterFacts.model_validate(values)
    facts = facts if base is None else facts.model_copy(update={"base_model": base})
    if facts.base_sha256 is not None and not Path(facts.base_model).is_dir():
        raise UsageError(
            f"{adapter_dir}: was trained on the folder {facts.base_model}, which is not here; say where it is now "
            "with --base"
        )
    return facts


def _folder_sha256(name_or_dir: str | None) -> str | None:
    from medgen_models.base_models import base_sha256

    return None if name_or_dir is None else base_sha256(name_or_dir)


def _sha256_of_base(facts: "AdapterFacts") -> str:
    known = facts.base_sha256 or _folder_sha256(facts.base_model)
    return known or f"hub:{facts.base_model}@{facts.base_revision or 'main'}"
