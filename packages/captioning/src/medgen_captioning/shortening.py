"""Judge a text, and once more in fewer words if nothing but its length was wrong."""

from collections.abc import Callable

from medgen_captioning.checks import Demands, Verdict, judge


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
