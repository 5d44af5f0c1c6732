"""What it costs that DVC watches a dataset: the first hashing, and a look when nothing changed.

    python benchmarks/dataset_dependency.py [--samples 100000] [--image-bytes 8000]

A tree of images and masks (random bytes of the sizes given; masks have 600) is made in a temporary
folder, with one stage that depends on it. Times are of processor and wall clock.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PIPELINE = "stages:\n  dataset:\n    cmd: echo made > made\n    deps: [tree]\n    outs: [made]\n"
MASK_BYTES = 600


def main() -> None:
    """Make the tree, time DVC on it and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--image-bytes", type=int, default=8_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seggen-dependency-") as name:
        folder = Path(name)
        noise = os.urandom(1 << 20)
        for kind, size in (("images", args.image_bytes), ("masks", MASK_BYTES)):
            (folder / "tree" / kind).mkdir(parents=True)
            for i in range(args.samples):
                content = i.to_bytes(4, "big") + noise[i % 1000 : i % 1000 + size]
                (folder / "tree" / kind / f"{i:06d}").write_bytes(content)
        (folder / "dvc.yaml").write_text(PIPELINE)
        timed(folder, "init", "--no-scm", "--quiet")
        print(f"{2 * args.samples} files, {os.cpu_count()} cores")
        for label, command in (
            ("first hashing (repro)", "repro"),
            ("status, nothing changed", "status"),
            ("repro, nothing changed", "repro"),
        ):
            processor, wall = timed(folder, command)
            print(f"{label}: {processor:.1f} s of processor time, {wall:.1f} s")


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run DVC; return seconds of processor and wall clock."""
    command = [str(Path(sys.executable).with_name("dvc")), *arguments]
    environment = os.environ | {"DVC_NO_ANALYTICS": "true"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return processor, ended - started


if __name__ == "__main__":
    main()
