"""Dagster's versions from DVC's records.

A **data version** is the hash of what a stage wrote. A **code version** is a hash of what makes DVC
run a stage again while its inputs from other stages stay the same: its command, its parameters, and
the sources it reads. What hidden stages write counts as a source.
"""

from dagster_dvc.graph import DvcManifest
from dagster_dvc.lock import LockedStage, digest_of

DATA_VERSION_TAG = "dagster/data_version"
"""Dagster's tag of a materialization; it is what `MaterializeResult(data_version=...)` sets."""
RECORD_TAG = "dvc/record"
"""Tag of a materialization: the digest of what DVC recorded of the run (`LockedStage.digest`)."""


def data_version(locked: LockedStage) -> str:
    """Return the md5 of a stage's output as DVC gives it; of several outputs, a hash of theirs."""
    hashes = [out.md5 for _, out in sorted(locked.outs.items())]
    return hashes[0] if len(hashes) == 1 else digest_of(hashes)


def code_version(manifest: DvcManifest, group: str) -> str:
    """Return the code version of a group of stages as it is defined now.

    Dagster has one code version per asset. What differs between the items of a group (a parameter
    of one ablation arm) is left out, and the check `dvc_status` speaks for it.
    """
    nodes = [manifest.stages[name] for name in manifest.groups[group]]
    first = nodes[0]
    params = {
        file: {
            key: value
            for key, value in values.items()
            if all(n.params.get(file, {}).get(key) == value for n in nodes)
        }
        for file, values in first.params.items()
    }
    sources = {
        path: md5 for path, md5 in manifest.sources.items() if all(path in n.deps for n in nodes)
    }
    return digest_of([first.template, params, sources])
