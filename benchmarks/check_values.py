"""Every check's numbers over a finished project: what limits have to be chosen from.

    python benchmarks/check_values.py [--project .] [--shuffled]

Prints a row for each output and check, with the measured numbers beside their limits.
`--shuffled` also prints what `image_mask_agreement` measures if the masks are shuffled among the
samples of a partition: masks of the right class that have nothing to do with their images. A limit
should lie between the two.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seggen_core.checks.results import Checked, look
from seggen_core.checks.synthesis import edge_agreement
from seggen_core.config import SYNTHESIS_METHODS, SegGenConfig, load_config
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.rng import numpy_rng
from seggen_core.store.reader import SampleStore

NUM_SHUFFLES = 5


def outputs(config: SegGenConfig, paths: ProjectPaths) -> Iterator[Checked]:
    """Yield every output of the project that has checks and was made."""
    names: list[tuple[str, str | None]] = [("dataset", None), ("captions", None)]
    names += [(method, slug) for method in SYNTHESIS_METHODS for slug in config.classes]
    names += [("train_seg", variant) for variant in config.variants]
    names += [("judge", method) for method in config.methods]
    for stage, item in names:
        checked = Checked(stage, item, paths, config.checks)
        if checked.folder.is_dir():
            yield checked


def shuffled_agreement(store: SampleStore) -> tuple[float, float]:
    """Return mean and largest edge agreement of a store over shuffles of its masks."""
    samples = list(store)
    means = []
    for shuffle in range(NUM_SHUFFLES):
        order = numpy_rng(shuffle, "shuffled agreement").permutation(len(samples))
        scores = [
            edge_agreement(samples[i].image, segmentation_map=samples[j].segmentation_map)
            for i, j in zip(order, np.roll(order, 1), strict=True)
        ]
        means.append(float(np.nanmean(scores)))
    return float(np.mean(means)), max(means)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=Path(), help="folder of params.yaml")
    parser.add_argument("--shuffled", action="store_true")
    arguments = parser.parse_args()
    paths = ProjectPaths(arguments.project.resolve())
    config = load_config(paths.root / "params.yaml")
    for checked in outputs(config, paths):
        for name, finding in look(checked).items():
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in finding.numbers.items())
            result = "pass" if finding.passed else "FAIL" if finding.blocks else "warn"
            print(f"{checked.name:<24} {name:<22} {result}  {numbers}")
        if arguments.shuffled and checked.stage in SYNTHESIS_METHODS:
            store = SampleStore(checked.folder)
            if len(store) > 1:
                mean, largest = shuffled_agreement(store)
                measured = f"mean {mean:.3g}, at most {largest:.3g}"
                print(f"{checked.name:<24} {'with shuffled masks':<22}       {measured}")


if __name__ == "__main__":
    main()
