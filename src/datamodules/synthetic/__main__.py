"""`python -m src.datamodules.synthetic OUT`: make the demo's data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.datamodules.synthetic.dataset import generate


def main() -> int:
    """Run the command line; the exit code is 1 when an input is refused."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="folder that receives data/ and truth/")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of images (default 1)")
    parser.add_argument("--strays", type=int, help="training images per class of track 2 in contexts not its own")
    arguments = parser.parse_args()
    try:
        generate(arguments.out, arguments.seed, arguments.scale, strays=arguments.strays)
    except (ValueError, OSError) as error:
        print(f"synthetic: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
