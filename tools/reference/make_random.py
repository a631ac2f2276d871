"""make_random.py - write a random checkpoint large enough for speed comparisons.

    python make_random.py --shape 100m --out DIR

The same layout as make_tiny.py. The weights mean nothing; only the time to use them does. Not kept in
the tree.
"""

import argparse

import recipes
from make_tiny import write_checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(recipes.RANDOM), default="100m")
    parser.add_argument("--out", required=True, help="directory to write")
    args = parser.parse_args()
    count = write_checkpoint(args.out, recipes.RANDOM[args.shape])
    print(f"{args.out}: {count} parameters")


if __name__ == "__main__":
    main()
