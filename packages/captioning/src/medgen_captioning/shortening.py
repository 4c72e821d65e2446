"""Judge a text, and once more in fewer words if nothing but its length was wrong."""

from collections.abc import Callable

from medgen_data.problems import DataError

from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.checks import Demands, Verdict, judge
from medgen_captioning.config import CaptionConfig


def judge_shortened(text: str, demands: Demands, shorten: Callable[[str], str] | None) -> Verdict:
    """Check a text, and what `shorten` makes of it if it is too long; others stay word for word.

    Args:
        text: As it was written.
        demands: What is demanded of it.
        shorten: Says it in fewer words; None: a long text stays rejected.
    """
    verdict = judge(text, demands)
    if shorten is None or not verdict.only_too_long:
        return verdict
    shorter = judge(shorten(verdict.text), demands)
    if shorter.accepted:
        return Verdict(shorter.text, (*shorter.passed, "simplified"), ())
    return Verdict(
        shorter.text, shorter.passed, tuple((name, f"simplified: {why}") for name, why in shorter.failed)
    )


def shortener_of(
    config: CaptionConfig,
    cache: CaptionCache,
    *,
    device: str | None = None,
    if_new: Callable[[str], str] | None = None,
) -> tuple[Callable[[str], str] | None, str]:
    """Return what shortens a caption, None if nothing does, and the identity of its model.

    Args:
        config: How to caption.
        cache: Where short forms are kept.
        device: Where the model runs; None: the first GPU, or the CPU where there is none.
        if_new: Called instead of the model where the short form is not in the cache.
    """
    if config.simplify is None:
        return None, ""
    try:
        from medgen_captioning.simplify import Simplifier
    except ImportError as error:
        raise DataError(
            f"simplify needs a library that is missing ({error}); install medgen-captioning[local]"
        ) from error
    simplifier = Simplifier(config.simplify, cache, device)

    def shorten(text: str) -> str:
        if if_new is None:
            return simplifier.simplify(text)
        known = simplifier.known(text)
        return if_new(text) if known is None else known

    return shorten, f" + {simplifier.writer.identity}"
