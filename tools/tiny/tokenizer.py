"""A byte-level BPE tokenizer in the layout and with the role tokens of GLM-4."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tiny.corpus import Document

VOCAB_SIZE = 1536
END_OF_TEXT = "<|endoftext|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
OBSERVATION = "<|observation|>"
# In GLM's order; as there, they are the last ids of the vocabulary.
SPECIAL_TOKENS = (END_OF_TEXT, SYSTEM, USER, ASSISTANT, OBSERVATION)
# The three tokens at which GLM stops: end of text, the user's turn, a tool's turn.
STOP_TOKENS = (END_OF_TEXT, USER, OBSERVATION)

# Words with one leading non-letter, digits by three, punctuation, line ends, blanks.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|{{ message.role }}|>
{{ message.content }}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{% endif -%}
"""


def train_tokenizer(documents: Sequence[Document]) -> PreTrainedTokenizerFast:
    """Learn VOCAB_SIZE tokens, role tokens included, from all text of ``documents``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for d in documents for text in (d.question, d.text) if text)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=2048,
    )


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the stop tokens, in GLM's order."""
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in STOP_TOKENS]


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]
) -> list[list[int]]:
    """Token ids of each document, ended by the end-of-text token.

    A document with a question becomes one turn of a chat, ended as GLM ends its turns: by the
    token that opens the user's next one.
    """
    texts = [
        f"{USER}\n{d.question}{ASSISTANT}\n{d.text}{USER}{END_OF_TEXT}"
        if d.question
        else d.text + END_OF_TEXT
        for d in documents
    ]
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]
