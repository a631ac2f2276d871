"""capture_tokenizer.py - golden ids from the `tokenizers` library.

    python capture_tokenizer.py --model tests/golden/tiny-a/model --out tests/golden/tokenizer

Writes JSON lines, pure ASCII:
  tiny.jsonl     {"text", "ids", "ids_text"}: `ids` with added tokens recognised, as published;
                 `ids_text` is ordinary BPE of the NFC text, where no added token exists
  prompts.jsonl  {"prompt", "ids", "ids_text"}: the whole generation prompt around a user's text;
                 `ids` as published, `ids_text` with the user's text unable to form an added token
The two lists of a prompt are equal unless the user's text contains an added token.
"""

import argparse
import json
import os
import re

from tokenizers import Tokenizer

import tiny_tokenizer
from reference import PROMPT
from tokenizer_strings import strings


def encode(tokenizer, text):
    """Ids without any template."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def prompt_ids_text(whole, plain, prompt):
    """Ids of the prompt when only the template's own marks are added tokens."""
    ids = []
    for piece in re.split(r"(<\|im_start\|>|<\|im_end\|>|<im_start>|<S0>)", PROMPT):
        mark = whole.token_to_id(piece)
        ids += [mark] if mark is not None else encode(plain, piece.replace("{}", prompt))
    return ids


def write_lines(path, rows):
    """JSON lines in ASCII, so that no editor or checkout can normalize them."""
    with open(path, "w", encoding="ascii", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{path}: {len(rows)} lines")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, help="folder to write")
    args = parser.parse_args()
    path = os.path.join(args.model, "tokenizer.json")
    whole, plain = Tokenizer.from_file(path), tiny_tokenizer.without_added_tokens(path)
    texts = strings()
    write_lines(os.path.join(args.out, "tiny.jsonl"),
                [{"text": t, "ids": encode(whole, t), "ids_text": encode(plain, t)} for t in texts])
    prompts = []
    for text in texts[::6]:
        ids, ids_text = encode(whole, PROMPT.replace("{}", text)), prompt_ids_text(whole, plain, text)
        is_harmless = encode(whole, text) == encode(plain, text)
        assert (ids == ids_text) == is_harmless, text
        prompts.append({"prompt": text, "ids": ids, "ids_text": ids_text})
    write_lines(os.path.join(args.out, "prompts.jsonl"), prompts)


if __name__ == "__main__":
    main()
