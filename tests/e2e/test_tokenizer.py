"""Tokenizer files edited in every way that AutoTokenizer reads: the runtime gives the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer

from glmc.errors import CheckpointError
from glmc.tokenizer import tokenizer_files
from glmc_runtime.generate.text import Text

SPECIAL = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "[gMASK]", "<sop>"]
TEXTS = (
    "Hello world , it 's me . don't ? x = 1 !",
    "  你好 <|user|> a<new>b <|user|>c\n\n\tÜber ﬁne e\u0301 <NEW> [gMASK]<sop>",
    "a sentence that is longer than eight tokens, and goes on",
    "",
)
Edit = Callable[[Path], None]


def write_tokenizer(directory: Path) -> None:
    """A tokenizer of 256 byte tokens, with a model's config so that AutoTokenizer finds it."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken(word, special=True) for word in SPECIAL])
    made.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 256,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text(json.dumps({"model_type": "glm4"}))


def in_json(name: str, **fields: Any) -> Edit:
    def edit(directory: Path) -> None:
        path = directory / name
        data = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**data, **fields}))

    return edit


def settings(**fields: Any) -> Edit:
    return in_json("tokenizer_config.json", **fields)


def backend(**fields: Any) -> Edit:
    return in_json("tokenizer.json", **fields)


def words(directory: Path) -> None:
    """A WordPiece, whose decoded text is cleaned of blanks before marks."""
    known = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz.,?!='", "hello", "##s", "##t", "it", "don"]
    model = tokenizers.models.WordPiece(
        {word: number for number, word in enumerate(known)}, unk_token=SPECIAL[0]
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece(cleanup=False)
    made.add_special_tokens(SPECIAL)
    made.save(str(directory / "tokenizer.json"))


def pieces(model: Any) -> Edit:
    """A tokenizer as sentencepiece makes them: blanks are letters, and one stands in front."""

    def edit(directory: Path) -> None:
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        made.decoder = tokenizers.decoders.Metaspace()
        made.add_special_tokens(SPECIAL)
        made.save(str(directory / "tokenizer.json"))

    return edit


LETTERS = ["<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz.,?!='Hd1"]


def several(*edits: Edit) -> Edit:
    def edit(directory: Path) -> None:
        for one in edits:
            one(directory)

    return edit


ADDED = {"content": "<new>", "lstrip": True, "rstrip": True, "normalized": False, "special": False}
POST = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[gMASK]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[gMASK]": {"id": "[gMASK]", "ids": [260], "tokens": ["[gMASK]"]}},
}
CUT = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
FILLED = {
    "strategy": {"Fixed": 32},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[gMASK]",
}
EDITS: dict[str, Edit] = {
    "as it is": several(),
    "truncation": backend(truncation=CUT),
    "truncation on the left": backend(truncation={**CUT, "direction": "Left", "stride": 2}),
    "padding": backend(padding=FILLED),
    "padding and truncation": backend(padding=FILLED, truncation=CUT),
    "post-processor": backend(post_processor=POST),
    "post-processor, bos asked for": several(
        backend(post_processor=POST), settings(add_bos_token=True, bos_token="<sop>")
    ),
    "bos and eos": settings(add_bos_token=True, add_eos_token=True, bos_token="[gMASK]"),
    "lower case": backend(normalizer={"type": "Lowercase"}),
    "normal form": backend(normalizer={"type": "NFKC"}),
    "prefix space": backend(
        pre_tokenizer={
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        }
    ),
    "added tokens of the settings": settings(added_tokens_decoder={"262": ADDED}),
    "added tokens of their own file": in_json("added_tokens.json", **{"<new>": 262}),
    "an added token that is special elsewhere": settings(
        added_tokens_decoder={"262": {**ADDED, "special": True}}, bos_token="<new>"
    ),
    "special tokens of their own file": in_json(
        "special_tokens_map.json", bos_token={**ADDED, "special": True}, unk_token="<NEW>"
    ),
    "additional special tokens": settings(additional_special_tokens=["<new>", "<NEW>"]),
    "extra special tokens by name": settings(extra_special_tokens={"image_token": "<new>"}),
    "a token of the model's own": settings(image_token="<new>"),
    "special tokens split": settings(split_special_tokens=True),
    "cleaned": settings(clean_up_tokenization_spaces=True),
    "cleaned by force": settings(
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    ),
    "word pieces": words,
    "word pieces, cleaned": several(words, settings(clean_up_tokenization_spaces=True)),
    "unigram": pieces(tokenizers.models.Unigram([(one, -1.0) for one in LETTERS], unk_id=0)),
    "pairs of bytes with blanks as letters": pieces(
        tokenizers.models.BPE(
            {one: number for number, one in enumerate([*LETTERS, "\u2581i", "lo"])},
            [("\u2581", "i"), ("l", "o")],
            unk_token="<unk>",
            fuse_unk=True,
        )
    ),
    "of another class": settings(tokenizer_class="LlamaTokenizerFast", add_bos_token=True),
    "of a class that only the checkpoint has": settings(
        tokenizer_class="ChatGLM4Tokenizer",
        auto_map={"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
    ),
    "legacy": settings(legacy=False, add_prefix_space=True, use_default_system_prompt=False),
    "no settings": lambda directory: (directory / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("name", EDITS)
def test_ids_and_texts_are_those_of_auto_tokenizer(tmp_path: Path, name: str) -> None:
    write_tokenizer(tmp_path)
    EDITS[name](tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    made = tokenizer_files(tmp_path)
    assert made.remarks == ()
    text = Text(made.files)
    for given in TEXTS:
        ids = peer(given)["input_ids"]
        assert text.encode(given) == ids
        assert text.decode(ids) == peer.decode(ids, skip_special_tokens=True)
        stream = text.stream()
        pieces = [stream.feed(token) for token in ids]
        assert "".join(pieces) + stream.finish() == text.decode(ids)
    # What is written is a tokenizer of its own for whoever reads the artifact by transformers.
    again = tmp_path / "again"
    again.mkdir()
    for file, data in made.files.items():
        (again / file).write_bytes(data)
    (again / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    read = AutoTokenizer.from_pretrained(again, trust_remote_code=False)
    assert [read(given)["input_ids"] for given in TEXTS] == [
        peer(given)["input_ids"] for given in TEXTS
    ]


def test_files_that_say_the_same_are_the_checkpoints_own() -> None:
    directory = Path(__file__).parents[2] / "models" / "tiny-moe"
    made = tokenizer_files(directory)
    assert set(made.files) > {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for name, data in made.files.items():
        assert data == (directory / name).read_bytes(), name


def test_a_tokenizer_that_the_runtime_can_not_have_is_named(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"none that any library reads")
    (tmp_path / "generation_config.json").write_text("{}")
    made = tokenizer_files(tmp_path)
    assert set(made.files) == {"generation_config.json"}
    assert "token ids only" in made.remarks[0]
    (tmp_path / "tokenizer.model").unlink()
    assert "no text: the checkpoint has no tokenizer" in tokenizer_files(tmp_path).remarks[0]
    assert tokenizer_files(None).remarks == ()
    assert tokenizer_files(None).files == {}


@pytest.mark.parametrize(
    "edit",
    [
        lambda directory: (directory / "tokenizer.json").write_text("{"),
        lambda directory: (directory / "tokenizer_config.json").write_text("["),
        settings(chat_template=[{"name": "../out", "template": "x"}]),
        lambda directory: (directory / "chat_template.json").write_text("[]"),
    ],
)
def test_a_damaged_tokenizer_is_an_error_of_the_checkpoint(tmp_path: Path, edit: Edit) -> None:
    write_tokenizer(tmp_path)
    edit(tmp_path)
    with pytest.raises(CheckpointError):
        tokenizer_files(tmp_path)
