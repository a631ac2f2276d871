"""tiny_tokenizer.py - a 300-entry byte-level BPE tokenizer with the pipeline of the published one.

Same added tokens, flags and order of passes as the published tokenizer; only the base vocabulary is
small: 256 byte symbols and 44 merges chosen to disagree with a naive left-to-right merger (ranks are
not sorted by position), to cross letters, blanks, newlines and the two bytes of composed letters.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# (content, special): none of these is normalized.
BASE_ADDED = [
    ("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True),
    ("<|object_ref_start|>", True), ("<|object_ref_end|>", True),
    ("<|box_start|>", True), ("<|box_end|>", True),
    ("<|quad_start|>", True), ("<|quad_end|>", True),
    ("<|vision_start|>", True), ("<|vision_end|>", True), ("<|vision_pad|>", True),
    ("<|image_pad|>", True), ("<|video_pad|>", True),
    ("<tool_call>", False), ("</tool_call>", False),
    ("<|fim_prefix|>", False), ("<|fim_middle|>", False), ("<|fim_suffix|>", False), ("<|fim_pad|>", False),
    ("<|repo_name|>", False), ("<|file_sep|>", False),
    ("<tool_response>", False), ("</tool_response>", False),
    ("<think>", False), ("</think>", False),
]

# Rank order. "\u0120" is the blank, "\u010a" the newline; "\u00c3\u00a9" are the two bytes of e acute.
MERGES = """
i n
Ġ a
e r
Ġ t
h e
Ġt he
o n
r e
Ġ c
Ġ Ġ
a t
Ċ Ċ
e d
Ġ s
in g
l e
Ġ b
c i
l l
Ã ©
Ġ ĠĠ
ĠĠ ĠĠ
ci r
Ġ r
Ġr ed
c le
u e
Ġb l
Ġbl ue
cir cle
Ġ circle
Ġc i
s e
q u
s qu
Ġ squ
a re
o r
Ġsqu are
' s
! !
á ¸
č Ċ
he ll
""".split("\n")[1:-1]


def byte_symbols():
    """The printable symbol of each byte, in the order of the published vocabularies."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(0x100 + i) for i in range(len(moved))]


def base_model():
    """Vocabulary of byte symbols and merge results, in rank order."""
    pairs = [tuple(line.split(" ")) for line in MERGES]
    symbols = byte_symbols() + [a + b for a, b in pairs]
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    assert len(vocab) == len(symbols) == 300, (len(vocab), len(symbols))
    return models.BPE(vocab=vocab, merges=pairs, dropout=None, unk_token=None,
                      continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False,
                      byte_fallback=False, ignore_merges=False)


def pipeline(model):
    """The published normalizer, pre-tokenizer and decoder around a BPE model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return tokenizer


def build(image_tokens):
    """The whole tokenizer, image tokens included."""
    tokenizer = pipeline(base_model())
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in BASE_ADDED])
    return grow(tokenizer, image_tokens)


def grow(tokenizer, image_tokens):
    """Add the image tags, scale tokens and image tokens as the published training script does."""
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)
                                  for text in ("<im_start>", "<im_end>")])
    scales = [f"<S{i}>" for i in range(3)]
    codes = [f"<I{i}>" for i in range(image_tokens)]
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in scales + codes])
    return tokenizer


def write(path, image_tokens, merges_as_pairs):
    """Write `tokenizer.json`, with merges as "a b" strings or as two-element arrays."""
    data = json.loads(build(image_tokens).to_str())
    pairs = [m.split(" ") if isinstance(m, str) else m for m in data["model"]["merges"]]
    data["model"]["merges"] = pairs if merges_as_pairs else [" ".join(pair) for pair in pairs]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    data["pre_tokenizer"]["pretokenizers"][1] = byte_level  # word for word what the published file says
    data["post_processor"] = data["decoder"] = byte_level
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=1)
        file.write("\n")


def without_added_tokens(path):
    """A tokenizer from the same file that recognises no added token: ordinary BPE over the NFC text."""
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    data["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(data))
