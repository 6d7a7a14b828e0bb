"""`python -m infiniop.gen`: see `infiniop gen --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import check, source_root, write_build_files, write_committed
from .abi import AbiError
from .lock import LockError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="infiniop gen", description="Derive files from the operator files.")
    parser.add_argument("--check", action="store_true", help="fail when a committed file is stale; write nothing")
    parser.add_argument("--bump", action="append", default=[], metavar="OP", help="give OP a new schema version")
    parser.add_argument("--build", type=Path, metavar="DIR", help="write the files of a build below DIR instead")
    options = parser.parse_args(arguments)
    try:
        root = source_root()
        if options.build:
            write_build_files(root, options.build)
        elif options.check:
            stale = check(root)
            for path in stale:
                print(f"stale: {path.relative_to(root)}")
            if stale:
                print("run `infiniop gen` and commit what it changes")
            return 1 if stale else 0
        else:
            for path in write_committed(root, options.bump):
                print(f"wrote {path.relative_to(root)}")
    except (AbiError, LockError, FileNotFoundError) as error:
        print(f"infiniop gen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
