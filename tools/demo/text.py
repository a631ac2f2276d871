"""tools/demo/text.py - the checkpoint's tokenizer: byte-level BPE of the Qwen kind, trained on captions.

Id order: bytes and merges, the 26 added tokens of the Qwen3 tokenizer, <im_start> <im_end>, <S0>..<S2>, <I0>...
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import components
import scenes

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
BASE_ADDED = (  # (content, special), in id order
    [(t, True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
                         "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
                         "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")]
    + [(t, False) for t in ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
                            "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
                            "<think>", "</think>")])
PROMPT = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease generate image based on "
          "the following caption: {}<|im_end|>\n<|im_start|>assistant\n<im_start><S0>")
EDIT = ("system\nYou are a helpful assistant.\nuser\nPlease edit this image according to the following instruction: .\n"
        "assistant\nPlease edit these images according to the following instructions: \nDescribe the picture.\n")
MERGES = 385  # with 256 bytes and everything added: 1184 tokens, divisible by 32
COMMON = """the of and to in is it you that he was for on are with as his they be at one have this from or had by hot but
some what there we can out other were all your when up use word how said each which do their time if will way about many
then them would write like so these her long make thing see him two has look more day could go come did my no most who
over know than call first people may down side been now find any new work part take get place made where after back only
round man year came show every good me give our under name very through just form much great think say help low line
before turn cause same mean differ move right boy old too does tell sentence set three want air well also play small end
put home read hand port large spell add even land here must big high such follow act why ask men change went light kind
off need house picture try us again animal point mother world near build self earth father color shape image draw paint
moon sun sky sea tree apple dog cat car bird fish flower mountain river city night morning bright dark soft sharp"""


def build(seed=0, captions=20000):
    """A tokenizers.Tokenizer, trained."""
    tokenizer = Tokenizer(models.BPE(fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, min_frequency=1, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    template = PROMPT.replace("<|im_start|>", "").replace("<|im_end|>", "").replace("<im_start><S0>", "")
    captions = scenes.some_captions(seed, captions)
    words = [" " + w for w in COMMON.split()]
    tokenizer.train_from_iterator([template] * 2000 + [EDIT] * 2000 + captions + words, trainer)
    assert tokenizer.get_vocab_size() == 256 + MERGES, tokenizer.get_vocab_size()
    for content, special in BASE_ADDED:
        tokenizer.add_tokens([AddedToken(content, normalized=False, special=special)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<im_start>", "<im_end>")])
    for stem, count in (("S", 3), ("I", components.CODES)):
        tokenizer.add_tokens([AddedToken(f"<{stem}{i}>", normalized=True, special=False) for i in range(count)])
    return tokenizer


def prompt_ids(tokenizer, caption):
    return tokenizer.encode(PROMPT.format(caption), add_special_tokens=False).ids


def prefix_ids(tokenizer):
    """The ids that every prompt starts with; the blank before the caption belongs to the caption's first token."""
    return tokenizer.encode(PROMPT.split(" {}")[0], add_special_tokens=False).ids


def special_ids(tokenizer):
    """The ids that config.json names."""
    ids = tokenizer.token_to_id
    return dict(image_start_tag_id=ids("<im_start>"), image_end_tag_id=ids("<im_end>"),
                scale_start_token_id=ids("<S0>"), scale_end_token_id=ids("<S2>"), num_scale_tokens=3,
                image_start_token_id=ids("<I0>"), image_end_token_id=ids(f"<I{components.CODES - 1}>"),
                num_image_tokens=components.CODES, num_new_tokens=components.CODES,
                eos_token_id=ids("<|im_end|>"), pad_token_id=ids("<|endoftext|>"))


def save(tokenizer, folder):
    """tokenizer.json and the small file that names the special tokens for transformers."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2TokenizerFast", "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 2048,
    }, indent=1) + "\n")
