"""compare.py - compare two files of tensors, such as a trace of the engine and one of the reference.

    python compare.py ENGINE.safetensors REFERENCE.safetensors [--tolerance PATTERN=LIMIT ...]

Prints relative L2, largest difference and verdict per key and exits 1 when a key is beyond its limit
(tolerances.py), has another shape, or is missing from the first file (unless --common). A pattern is a
regular expression on the key; the last one given wins. --scope PREFIX compares the keys PREFIX/* of the
reference with the plain keys of the first file.
"""

import argparse
import re
import sys

from safetensors.torch import load_file

from tolerances import EXACT, distance, relative_l2, rule


def limits(key, overrides):
    """(kind, limit) of a key after the command line's overrides."""
    kind, limit = rule(key)
    for pattern, value in overrides:
        if re.search(pattern, key):
            limit = value
    return kind, limit


def row(key, a, b, overrides):
    """One printed line, and whether the key passes."""
    if a is None:
        return f"{key:32} missing", False
    if a.shape != b.shape:
        return f"{key:32} shape {list(a.shape)}, expected {list(b.shape)}", False
    kind, limit = limits(key, overrides)
    ok = distance(key, a, b) <= limit
    worst = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
    bound = "exact" if kind == EXACT and limit == 0 else f"<= {limit:g} {kind}"
    verdict = "ok" if ok else "BEYOND"
    return f"{key:32} rel {relative_l2(a, b):9.3g}  max {worst:9.3g}  {bound:18} {verdict}", ok


def natural(key):
    """Sort key that puts latent.10 after latent.9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("reference")
    parser.add_argument("--tolerance", action="append", default=[], metavar="PATTERN=LIMIT")
    parser.add_argument("--scope", default="", help="prefix of the reference's keys to compare")
    parser.add_argument("--common", action="store_true", help="only keys that both files have")
    parser.add_argument("--quiet", action="store_true", help="only print keys that fail")
    args = parser.parse_args()
    overrides = [(p, float(v)) for p, v in (item.rsplit("=", 1) for item in args.tolerance)]
    scope = args.scope.rstrip("/") + "/" if args.scope else ""
    a, b = load_file(args.file), load_file(args.reference)
    b = {key[len(scope):]: value for key, value in b.items() if key.startswith(scope)}
    keys = [key for key in sorted(b, key=natural) if key in a or not args.common]
    failed = not keys
    for key in keys:
        line, ok = row(key, a.get(key), b[key], overrides)
        failed |= not ok
        if not ok or not args.quiet:
            print(line)
    print(f"{len(keys)} keys, {'FAILED' if failed else 'all within limits'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
