import sqlite3
import threading
from pathlib import Path

import pytest
from medgen_captioning.caption_cache import Answer, CaptionCache, Spending, Usage
from medgen_captioning.requests import Question, Writer, answer_key, attempt_seed, draw
from medgen_data.problems import DataError

WRITER = Writer("tiny", "tiny 1", {"temperature": 0.8, "top_k": 50}, draws=True)


def answer(key: str, text: str = "red") -> Answer:
    return Answer(key, text, "tiny 1", "0" * 64, "Describe.", 7)


def test_answers_outlive_the_process_and_the_first_one_stays(tmp_path: Path) -> None:
    with CaptionCache(tmp_path / "cache.sqlite") as cache:
        assert cache.text("a") is None
        cache.store(answer("a", "red"), answer("b", ""))
        cache.store(answer("a", "blue"))
    with CaptionCache(tmp_path / "cache.sqlite") as cache:
        assert (cache.text("a"), cache.text("b"), cache.num_answers()) == ("red", "", 2)


def test_the_ledger_counts_what_left_and_what_is_open(tmp_path: Path) -> None:
    with CaptionCache(tmp_path / "cache.sqlite") as cache:
        paid = cache.begin_request("a", "tiny 1")
        failed = cache.begin_request("b", "tiny 1")
        cache.begin_request("c", "tiny 1")
        cache.begin_request("d", "another")
        cache.end_request(paid, "answered", Usage(100, 20), answer("a"))
        cache.end_request(failed, "status-500")
    with CaptionCache(tmp_path / "cache.sqlite") as cache:
        assert cache.spending("tiny 1") == Spending(3, 1, 100, 20, largest_prompt=100)
        assert cache.spending("unknown") == Spending(0, 0, 0, 0)
        assert cache.open_requests() == ["c", "d"]
        assert cache.text("a") == "red"


def test_many_threads_share_one_cache(tmp_path: Path) -> None:
    with CaptionCache(tmp_path / "cache.sqlite") as cache:

        def work(number: int) -> None:
            for index in range(10):
                key = f"{number}-{index}"
                cache.end_request(cache.begin_request(key, "tiny 1"), "answered", Usage(1, 1), answer(key))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.num_answers() == 40
        assert cache.spending("tiny 1") == Spending(40, 0, 40, 40, largest_prompt=1)


def test_two_connections_write_side_by_side(tmp_path: Path) -> None:
    with CaptionCache(tmp_path / "cache.sqlite") as one, CaptionCache(tmp_path / "cache.sqlite") as other:
        one.store(answer("a"))
        other.store(answer("b"))
        assert one.text("b") == other.text("a") == "red"


def test_caches_of_two_machines_are_merged(tmp_path: Path) -> None:
    with CaptionCache(tmp_path / "one.sqlite") as one, CaptionCache(tmp_path / "other.sqlite") as other:
        one.store(answer("a", "red"), answer("b"))
        other.store(answer("a", "blue"), answer("c"), answer("d"))
        assert one.merge(tmp_path / "other.sqlite") == 2
        assert (one.text("a"), one.text("d"), one.num_answers()) == ("red", "red", 4)


def test_a_file_hash_is_known_as_long_as_size_and_time_agree(tmp_path: Path) -> None:
    with CaptionCache(tmp_path / "cache.sqlite") as cache:
        cache.note_file_hash("/m/model.safetensors", 10, 5, "ab")
        assert cache.known_file_hash("/m/model.safetensors", 10, 5) == "ab"
        assert cache.known_file_hash("/m/model.safetensors", 10, 6) is None
        cache.note_file_hash("/m/model.safetensors", 11, 6, "cd")
        assert cache.known_file_hash("/m/model.safetensors", 11, 6) == "cd"


def test_what_is_no_cache_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("captions, once" * 100)
    with pytest.raises(DataError, match=r"text\.sqlite is no caption cache .*move this one away"):
        CaptionCache(tmp_path / "text.sqlite")
    assert (tmp_path / "text.sqlite").read_text() == "captions, once" * 100

    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    connection.close()
    with pytest.raises(DataError, match="another program's tables are in it"):
        CaptionCache(tmp_path / "other.sqlite")

    with sqlite3.connect(tmp_path / "newer.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(DataError, match="expected version 1, got 9"):
        CaptionCache(tmp_path / "newer.sqlite")


def test_a_key_depends_on_every_cause_and_on_nothing_else() -> None:
    question = Question("r1", "1.png", Path("1.png"), "a" * 64, "An X", "Describe.")
    same = Question("r2", "2.png", Path("2.png"), "a" * 64, "An X", "Describe.")
    key = draw(WRITER, question, 0, seed=0).key
    assert draw(WRITER, same, 0, seed=0).key == key
    others = [
        draw(WRITER, question, 1, seed=0).key,
        draw(WRITER, question, 0, seed=1).key,
        answer_key(WRITER, "b" * 64, "Describe.", attempt_seed(0, "a" * 64, 0)),
        answer_key(WRITER, "a" * 64, "Describe!", attempt_seed(0, "a" * 64, 0)),
        answer_key(Writer("tiny", "tiny 2", WRITER.decoding, draws=True), "a" * 64, "Describe.", 0),
        answer_key(Writer("tiny", "tiny 1", {"top_k": 50}, draws=True), "a" * 64, "Describe.", 0),
    ]
    assert len({key, *others}) == 7
    greedy = Writer("tiny", "tiny 1", WRITER.decoding, draws=False)
    assert draw(greedy, question, 0, seed=0).key == draw(greedy, question, 3, seed=5).key


def test_seeds_of_attempts_fit_into_31_bits_and_differ() -> None:
    seeds = {attempt_seed(seed, "a" * 64, attempt) for seed in range(10) for attempt in range(20)}
    assert len(seeds) == 200
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
