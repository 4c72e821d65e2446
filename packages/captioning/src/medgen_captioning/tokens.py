"""Length of a text in the tokens of the model that will be trained on it."""

from medgen_data.problems import DataError

from medgen_captioning.checks import CountTokens
from medgen_captioning.config import TokenBudget


def token_counter(budget: TokenBudget) -> CountTokens:
    """Return a function that counts the tokens of a text, special ones included, nothing cut.

    Args:
        budget: Which tokenizer; only its files are read, no weights, no code of a repository.

    Raises:
        DataError: If the tokenizer is not to be had, or transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            f"a budget in tokens needs transformers ({error}); install medgen-captioning[local]"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            budget.tokenizer, subfolder=budget.subfolder, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"tokenizer {budget.tokenizer}/{budget.subfolder}: not to be had ({first_line}); allow the download "
            "once, or give the folder of a tokenizer"
        ) from error

    def count(text: str) -> int:
        # Not verbose: a text over the limit is what is looked for, no reason to warn.
        return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])

    return count
