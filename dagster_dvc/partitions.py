"""Partitions of a group of stages from its items, and their mappings from DVC's edges."""

from collections import defaultdict

import dagster as dg

from dagster_dvc.errors import DvcProjectError
from dagster_dvc.graph import DvcManifest


def partitions_of(manifest: DvcManifest, group: str) -> dg.StaticPartitionsDefinition | None:
    """One partition per item of a `matrix` or `foreach`; None for a stage that stands alone.

    Raises:
        DvcProjectError: an item can't key a partition.
    """
    keys = [manifest.stages[name].key for name in manifest.groups[group]]
    if None in keys:
        return None
    try:
        return dg.StaticPartitionsDefinition([key for key in keys if key is not None])
    except dg.DagsterError as error:
        raise DvcProjectError(
            f"items of {group} in dvc.yaml can't key partitions: {error}; "
            "use letters, digits, - and _"
        ) from error


def partition_mapping(
    manifest: DvcManifest, *, downstream: str, upstream: str
) -> dg.PartitionMapping | None:
    """Which partitions of `upstream` each one of `downstream` reads; None where it has none.

    Same item by same item is an identity; all or the same few for everyone are said so, since
    Dagster draws and computes those at once; anything else is listed.
    """
    upstream_keys = {manifest.stages[name].key: name for name in manifest.groups[upstream]}
    if None in upstream_keys:
        return None
    read: dict[str | None, frozenset[str]] = {}
    for name in manifest.groups[downstream]:
        parents = set(manifest.visible_upstream(name))
        read[manifest.stages[name].key] = frozenset(
            key for key, parent in upstream_keys.items() if key is not None and parent in parents
        )
    if all(keys == {key} for key, keys in read.items()) and read.keys() == upstream_keys.keys():
        return dg.IdentityPartitionMapping()
    alike = set(read.values())
    if len(alike) == 1:
        keys = alike.pop()
        if keys == upstream_keys.keys():
            return dg.AllPartitionMapping()
        return dg.SpecificPartitionsPartitionMapping([key for key in upstream_keys if key in keys])
    readers: dict[str, set[str]] = defaultdict(set)
    for key, keys in read.items():
        assert key is not None, "a stage that stands alone reads one set of partitions"
        for upstream_key in keys:
            readers[upstream_key].add(key)
    return dg.StaticPartitionMapping(
        {key: sorted(readers[key]) for key in upstream_keys if key in readers}
    )
