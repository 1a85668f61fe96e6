"""Tokens: text comes back, windows are a shuffled reading, and what is wrong with a file is said."""

import gzip
import json
import lzma
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.data import text_files
from pauca.moe.data.prepare import DataConfig, _Writer, prepare_tokens
from pauca.moe.data.text_files import read_documents
from pauca.moe.data.token_files import TokenData, TokenFile
from pauca.moe.data.tokenizers import END, BpeTokenizer, ByteTokenizer, load_tokenizer
from pauca.runs import write_text

TEXT = "the quick brown fox jumps over the lazy dog; " * 40


def counting(count: int) -> TokenFile:
    return TokenFile(Path("counting.bin"), np.arange(count, dtype=np.uint16), "")


def source(tmp_path, *documents: str) -> DataConfig:
    path = tmp_path / "text.txt"
    path.write_text(END.join(documents), encoding="utf-8")
    return DataConfig(sources=(str(path),))


@given(st.text())
def test_bytes_bring_any_text_back(text):
    tokenizer = ByteTokenizer()
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens.tolist()) == text


def test_byte_pairs_bring_text_back_in_fewer_tokens():
    tokenizer = BpeTokenizer.train([TEXT], 300)
    text = "the fox, the dög \n\t 犬"
    assert tokenizer.decode(tokenizer.encode([text])[0].tolist()) == text
    assert len(tokenizer.encode([TEXT])[0]) < len(TEXT) / 2
    assert tokenizer.vocabulary <= 300
    assert tokenizer.decode([tokenizer.end]) == END


def test_a_byte_pair_vocabulary_has_room_for_bytes():
    with pytest.raises(ConfigError, match="at least 257"):
        BpeTokenizer.train([TEXT], 256)


def test_a_cut_character_is_shown_as_such():
    assert ByteTokenizer().decode("é".encode()[:1]) == "\ufffd"


def test_every_window_is_read_once_an_epoch_in_another_order():
    context, text = 10, counting(1005)
    windows = (1005 - 1) // context - 1
    epochs = []
    for epoch in range(2):
        tokens, targets = text.batch(0, epoch * windows, windows, context)
        assert torch.equal(targets, tokens + 1)  # here a token's number is its place
        starts = tokens[:, 0].tolist()
        assert len({start % context for start in starts}) == 1
        assert sorted(starts) == list(range(min(starts), min(starts) + windows * context, context))
        epochs.append(starts)
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_a_batch_is_a_function_of_seed_and_number_alone():
    text = counting(5000)
    whole, _ = text.batch(3, 40, 8, 16)
    for first in (44, 40):  # whatever was drawn before, and by whomever
        part, _ = text.batch(3, first, 4, 16)
        assert torch.equal(part, whole[first - 40 : first - 36])
    assert not torch.equal(text.batch(4, 40, 8, 16)[0], whole)


def test_the_shortest_text_is_one_window():
    tokens, targets = counting(11).batch(0, 0, 3, 10)
    assert torch.equal(tokens, torch.arange(10).expand(3, 10))
    assert torch.equal(targets, torch.arange(1, 11).expand(3, 10))
    with pytest.raises(InputError, match="10 tokens are too few for one context of 10"):
        counting(10).batch(0, 0, 1, 10)


def test_validation_windows_are_spread_and_do_not_overlap():
    batches = list(counting(1001).even_batches(3, 4, 10))
    starts = torch.cat([tokens[:, 0] for tokens, _ in batches])
    assert starts[0] == 0
    assert starts[-1] == 990
    assert len(starts) == 12
    assert (starts.diff() >= 80).all()
    assert sum(len(tokens) for tokens, _ in counting(45).even_batches(3, 4, 10)) == 4  # all there are


def test_prepared_tokens_are_the_text(tmp_path):
    data = prepare_tokens(replace(source(tmp_path, "one", "two"), validation_share=0.0), tmp_path / "cache")
    assert data.tokenizer.decode(data.train.tokens.tolist()) == "one\0two\0"
    assert data.validation is None
    assert data.train.tokens.dtype == np.uint16
    assert isinstance(data.train.tokens, np.memmap)


def test_every_twentieth_document_is_held_out(tmp_path):
    config = source(tmp_path, *(f"document {number}." for number in range(1, 61)))
    data = prepare_tokens(config, tmp_path / "cache")
    assert data.tokenizer.decode(data.validation.tokens.tolist()) == "document 20.\0document 40.\0document 60.\0"
    assert b"document 40." not in data.train.tokens.astype(np.uint8).tobytes()


def test_the_end_of_a_single_document_is_held_out(tmp_path):
    data = prepare_tokens(replace(source(tmp_path, TEXT), validation_share=0.1), tmp_path / "cache")
    whole = np.frombuffer(TEXT.encode() + b"\0", np.uint8)
    assert len(data.validation) == round(0.1 * len(whole))
    np.testing.assert_array_equal(np.concatenate([data.train.tokens, data.validation.tokens]), whole)


def test_own_validation_files_leave_the_text_whole(tmp_path):
    (tmp_path / "held.txt").write_text("held out")
    config = replace(source(tmp_path, TEXT), validation=(str(tmp_path / "held.txt"),))
    data = prepare_tokens(config, tmp_path / "cache")
    assert data.tokenizer.decode(data.validation.tokens.tolist()) == "held out\0"
    assert len(data.train) == len(TEXT) + 1


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (["books/a.txt", "books/a.txt"], [], "a.txt: is named twice for training"),
        (["books", "books/../books/b.txt"], [], "b.txt: is named twice for training"),
        (["books/a.txt"], ["books/a.txt"], "a.txt: is text to train on and to validate on"),
        (["books"], ["books/b.txt"], "b.txt: is text to train on and to validate on"),
        (["books/a.txt"], ["books/b.txt", "books/b.txt"], "b.txt: is named twice for validation"),
    ],
)
def test_a_text_is_learned_once_and_not_what_validates(tmp_path, monkeypatch, training, validation, message):
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in "ab":
        Path(f"books/{name}.txt").write_text(TEXT)  # alike under two names: that is theirs to decide
    with pytest.raises(InputError, match=message):
        prepare_tokens(DataConfig(tuple(training), tuple(validation)), tmp_path / "cache")
    data = prepare_tokens(DataConfig(("books/a.txt",), ("books/b.txt",)), tmp_path / "cache")
    assert data.sources.keys() == {"books/a.txt", "books/b.txt"}


def test_links_in_a_folder_are_texts_of_their_own_but_validate_nothing_learned(tmp_path, monkeypatch):
    """As in the cache of Hugging Face's hub, where files that are alike are links to one."""
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    Path("books/a.txt").write_text(TEXT)
    Path("books/b.txt").symlink_to("a.txt")
    Path("shelf").symlink_to("books")
    assert len(prepare_tokens(DataConfig(("books",)), tmp_path / "cache").sources) == 2
    with pytest.raises(InputError, match=r"a\.txt: is named twice for training"):
        prepare_tokens(DataConfig(("books", "shelf")), tmp_path / "cache")
    with pytest.raises(InputError, match=r"b\.txt: is text to train on and to validate on"):
        prepare_tokens(DataConfig(("books/a.txt",), ("books/b.txt",)), tmp_path / "cache")


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert list(read_documents(path)) == [(TEXT, True)]
    path.write_bytes(TEXT.encode() + b"\xef\xbb\xbf")  # elsewhere it is a character like others
    assert list(read_documents(path)) == [(TEXT + "\ufeff", True)]


def test_byte_pairs_are_stored_beside_the_tokens(tmp_path):
    data = prepare_tokens(replace(source(tmp_path, TEXT), vocabulary=300), tmp_path / "cache")
    tokenizer = load_tokenizer(data.folder)
    assert tokenizer.decode(data.train.tokens.tolist()) in TEXT
    assert data.bytes_per_token > 2
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer)
    write_text(tmp_path / "tokenizer.json", "{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)


def test_the_same_text_is_tokenized_once(tmp_path):
    config = source(tmp_path, TEXT)
    first = prepare_tokens(config, tmp_path / "cache")
    written = (first.folder / "train.bin").stat().st_mtime_ns
    again = prepare_tokens(config, tmp_path / "cache")
    assert (again.folder / "train.bin").stat().st_mtime_ns == written
    assert prepare_tokens(DataConfig(sources=(str(first.folder),)), tmp_path / "other").folder == first.folder
    assert not (tmp_path / "other").exists()
    (tmp_path / "text.txt").write_text(TEXT + "more")
    assert prepare_tokens(config, tmp_path / "cache").folder != first.folder


def test_text_that_has_changed_is_named(tmp_path):
    config = source(tmp_path, TEXT)
    before = prepare_tokens(config, tmp_path / "cache")
    (tmp_path / "text.txt").write_text(TEXT + "more")
    after = prepare_tokens(config, tmp_path / "cache")
    after.check_sources(after.sources)
    with pytest.raises(InputError, match=r"text\.txt: has changed since the run began"):
        after.check_sources(before.sources)
    with pytest.raises(InputError, match=r"gone\.txt: has come or gone"):
        after.check_sources(after.sources | {"gone.txt": "1"})


def test_a_token_file_that_has_changed_is_refused(tmp_path):
    data = prepare_tokens(source(tmp_path, TEXT), tmp_path / "cache")
    content = bytearray((data.folder / "train.bin").read_bytes())
    content[100] ^= 1
    (data.folder / "train.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"train\.bin: has changed since it was written"):
        TokenData.open(data.folder)
    (data.folder / "train.bin").unlink()
    with pytest.raises(InputError, match=r"train\.bin: is missing; remove .* and tokenize anew"):
        TokenData.open(data.folder)
    (data.folder / "tokens.json").write_text("{")
    with pytest.raises(InputError, match=r"tokens\.json: cannot be read"):
        TokenData.open(data.folder)


def test_folders_and_compressed_files_are_read_in_order(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt.xz").write_bytes(lzma.compress(b"first"))
    (folder / "b" / "c.md").write_text("second")
    (folder / "d.py.gz").write_bytes(gzip.compress(b"third"))
    (folder / "picture.png").write_bytes(b"\xff\xfe")
    (folder / "empty.txt").touch()
    (folder / "blank.txt").write_text(" \n\n")
    config = DataConfig(sources=(str(folder),), validation_share=0.0)
    data = prepare_tokens(config, tmp_path / "cache")
    assert data.tokenizer.decode(data.train.tokens.tolist()) == "first\0second\0third\0"
    assert [name.rsplit("/", 1)[-1] for name in data.sources] == ["a.txt.xz", "c.md", "blank.txt", "d.py.gz"]


@pytest.mark.parametrize("vocabulary", [256, 300])
def test_a_folder_of_blank_files_is_named(tmp_path, vocabulary):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "blank.txt").write_text(" \n\n")
    with pytest.raises(InputError, match=r"texts: .*no text"):
        prepare_tokens(DataConfig(sources=(str(folder),), vocabulary=vocabulary), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
    (folder / "full.txt").write_text("some text, which is long enough")
    prepare_tokens(DataConfig(sources=(str(folder),), vocabulary=vocabulary), tmp_path / "cache")
    # A blank file that is named by itself is a mistake.
    with pytest.raises(InputError, match=r"blank\.txt: holds no text"):
        prepare_tokens(DataConfig(sources=(str(folder / "blank.txt"),)), tmp_path / "cache")


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
def test_a_nul_byte_which_would_end_a_document_is_named_with_its_place(tmp_path, compress):
    path = tmp_path / ("text.txt.gz" if compress is gzip.compress else "text.txt")
    path.write_bytes(compress(b"one\ntw\0o"))
    with pytest.raises(InputError, match=r"byte 6 \(line 2\) is NUL"):
        list(read_documents(path))
    path.write_bytes(compress("one\ntwo".encode("utf-16-le")))
    with pytest.raises(InputError, match="UTF-16"):
        list(read_documents(path))


def test_text_that_cannot_be_read_is_named_with_the_place(tmp_path):
    path = tmp_path / "text.txt"
    for content, message in ((b"", "holds no text"), (b" \n", "holds no text"), (b"one\ntw\xff", r"byte 6 \(line 2\)")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            list(read_documents(path))
    damaged = tmp_path / "text.txt.xz"
    damaged.write_bytes(lzma.compress(b"text" * 100)[:-9])
    with pytest.raises(InputError, match="compressed file is damaged"):
        list(read_documents(damaged))
    with pytest.raises(InputError, match="no such file or folder of text"):
        prepare_tokens(DataConfig(sources=(str(tmp_path / "none.txt"),)), tmp_path / "cache")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="no text files below it"):
        prepare_tokens(DataConfig(sources=(str(tmp_path / "bare"),)), tmp_path / "cache")


def test_json_lines_are_not_learned_as_text(tmp_path):
    record = '{"text": "hello", "url": "x"}\n'
    for name, write in (("a.jsonl", open), ("b.ndjson.gz", gzip.open)):
        with write(tmp_path / name, "wt") as file:
            file.write(record * 100)
        with pytest.raises(InputError, match=r"holds JSON lines, and not text; .*jq -r '\.text"):
            prepare_tokens(DataConfig(sources=(str(tmp_path / name),)), tmp_path / "cache")
    (tmp_path / "plain.jsonl").write_text("hello\n" * 100)
    (tmp_path / "records.txt").write_text(record * 100)  # who calls them text means it
    for name in ("plain.jsonl", "records.txt"):
        assert [path for _, path in text_files.text_files([str(tmp_path / name)])] == [tmp_path / name]


def test_json_lines_are_known_however_they_are_named(tmp_path, monkeypatch):
    """Names were compared as they are typed, and `./a.jsonl` was learned as text."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "hello"}\n' * 100)
    Path("a.txt").write_text(TEXT)
    for parts in ({"sources": ("./a.jsonl",)}, {"sources": ("a.txt",), "validation": ("./a.jsonl",)}):
        with pytest.raises(InputError, match="holds JSON lines, and not text"):
            prepare_tokens(DataConfig(**parts), Path("cache"))


def test_nothing_is_left_of_tokens_that_could_not_be_written(tmp_path, monkeypatch):
    config = source(tmp_path, TEXT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pauca.moe.data.prepare._Writer.flush", full)
        with pytest.raises(PaucaError, match="No space left on device"):
            prepare_tokens(config, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert len(prepare_tokens(config, tmp_path / "cache").train)


def test_the_default_text_is_the_standard_library_without_its_tests(tmp_path):
    data = prepare_tokens(DataConfig(), tmp_path)
    assert {"json/decoder.py", "abc.py"} <= set(data.sources)
    assert list(data.sources) == sorted(data.sources)
    assert not any("test" in name.split("/") for name in data.sources)
    assert len(data.train) > 5_000_000
    assert 0.03 < len(data.validation) / len(data.train) < 0.08
    facts = json.loads((data.folder / "tokens.json").read_text())
    assert facts["vocabulary"] == 256


@pytest.mark.realdata
def test_shakespeare_in_byte_pairs(pauca_data, tmp_path):
    path = pauca_data / "text" / "shakespeare.txt"
    data = prepare_tokens(DataConfig(sources=(str(path),), vocabulary=1024), tmp_path)
    assert 2.2 < data.bytes_per_token < 3
    text = data.tokenizer.decode(data.train.tokens[:2000].tolist())
    assert path.read_text(encoding="utf-8").startswith(text)


@pytest.mark.parametrize("wrong", [{"validation_share": 0.6}, {"validation_share": -0.1}, {"vocabulary": 100}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DataConfig(**wrong)


def test_one_name_is_no_tuple_of_names():
    """Its letters were taken for names, and the first of them was not found."""
    given = SimpleNamespace(sources="a.txt", validation=(), validation_share=0.05, vocabulary=256)
    with pytest.raises(ConfigError, match=r"sources must be a tuple of names, such as \('a\.txt',\), got 'a\.txt'"):
        DataConfig.__post_init__(given)  # as users have it, without the tests' hook


def test_folders_may_be_named_by_strings(tmp_path):
    data = prepare_tokens(source(tmp_path, TEXT), str(tmp_path / "cache"))
    assert TokenData.open(str(data.folder)).folder == data.folder
    assert isinstance(load_tokenizer(str(data.folder)), ByteTokenizer)


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress, lzma.compress])
def test_a_long_text_is_read_in_pieces_that_make_up_the_whole(tmp_path, monkeypatch, compress):
    suffix = {gzip.compress: ".gz", lzma.compress: ".xz"}.get(compress, "")
    texts = ["one line\nand   another\n\n  indented\n" * 30, "é€😀" * 50, " \n", "short"]
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(compress(END.join(texts).encode()))
    whole = list(read_documents(path))
    assert whole == [(texts[0], True), (texts[1], True), (texts[3], True)]
    for longest in (len(END) + 2, 40, 10**6):
        for at_once in (1, 7, 10**6):
            monkeypatch.setattr(text_files, "LONGEST_PIECE", longest)
            monkeypatch.setattr(text_files, "BYTES_AT_ONCE", at_once)
            documents, text = [], ""
            for piece, ends in read_documents(path):
                assert len(piece) <= max(longest, at_once)
                text += piece
                if ends:
                    documents, text = [*documents, (text, True)], ""
            assert documents == whole
            assert not text


@pytest.mark.parametrize("vocabulary", [256, 300])
def test_pieces_give_the_tokens_of_the_whole(tmp_path, monkeypatch, vocabulary):
    path = tmp_path / "text.txt"
    path.write_text(END.join("the quick\n  brown fox\njumps over\n\nthe lazy dog\n" * n for n in (9, 1, 5, 7)))
    config = DataConfig(sources=(str(path),), validation_share=0.3, vocabulary=vocabulary)
    whole = prepare_tokens(config, tmp_path / "whole")
    monkeypatch.setattr(text_files, "LONGEST_PIECE", 60)
    monkeypatch.setattr(text_files, "BYTES_AT_ONCE", 50)
    pieces = prepare_tokens(config, tmp_path / "pieces")
    assert np.array_equal(pieces.train.tokens, whole.train.tokens)
    assert np.array_equal(pieces.validation.tokens, whole.validation.tokens)
    assert pieces.bytes_per_token == whole.bytes_per_token


def test_places_of_bad_bytes_are_counted_over_all_parts(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    for at_once in (1, 3, 4, 100):
        monkeypatch.setattr(text_files, "BYTES_AT_ONCE", at_once)
        for content, words in (
            (b"one\n\xc3\xa9\ntw\xff", r"byte 9 \(line 3\) is not UTF-8"),
            (b"one\n\xc3\xa9\ntw\0o", r"byte 9 \(line 3\) is NUL"),
            (b"one\n\xc3", r"byte 4 \(line 2\) is not UTF-8"),
            (b"one\n\xe2\x82x", r"byte 4 \(line 2\) is not UTF-8"),
        ):
            path.write_bytes(content)
            with pytest.raises(InputError, match=words):
                list(read_documents(path))


def test_tokenizing_takes_bounded_memory(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_bytes(b"one line of text, without any end of a document\n" * 200_000)  # 9.6 MB
    for name in ("LONGEST_PIECE", "BYTES_AT_ONCE"):
        monkeypatch.setattr(text_files, name, 1 << 16)
    monkeypatch.setattr(_Writer, "_CHARACTERS", 1 << 16)
    tracemalloc.start()
    data = prepare_tokens(DataConfig(sources=(str(path),), validation_share=0.5), tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data.train) + len(data.validation) == path.stat().st_size + 1
    assert peak < 4e6
