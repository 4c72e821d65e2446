import re
from collections import Counter

from medgen_review.rater_codes import code_hash, new_code


def test_codes_are_of_one_form_and_never_alike() -> None:
    codes = {new_code() for _ in range(2000)}
    assert len(codes) == 2000
    assert all(re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{5}-){3}[0-9A-HJKMNP-TV-Z]{5}", code) for code in codes)
    # 32 characters, each as often as any: five bits, twenty times.
    counts = Counter("".join(codes).replace("-", ""))
    assert len(counts) == 32
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_a_code_may_be_typed_in_any_way() -> None:
    assert code_hash("7K2MQ-0ZC1T-9XWAB-F3H8D") == code_hash(" 7k2mq 0zc1t\t9xwabf3h8d\n")
    assert code_hash("7K2MQ-OZCIT-9XWAB-F3H8D") == code_hash("7K2MQ-0ZCLT-9XWAB-F3H8D")
    assert code_hash("7K2MQ") != code_hash("7K2MR")
