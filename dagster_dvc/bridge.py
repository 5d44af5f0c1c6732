"""Tells Dagster of stages with the provenance that DVC recorded, so that both call the same things stale."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from dagster_dvc.events import stage_tags
from dagster_dvc.lock import LockedStage
from dagster_dvc.manifest import DvcManifest, StageNode
from dagster_dvc.provenance import data_version, recorded_code_version
from dagster_dvc.translator import DvcTranslator

RECORDS_AT_ONCE = 100
"""Materializations hold pictures: read in portions."""


@dataclass(frozen=True)
class Known:
    """The last materialization that Dagster has of a stage: where it is in the event log, and its tags."""

    storage_id: int
    tags: Mapping[str, str]


class ProvenanceBridge:
    """Compares what DVC recorded with what Dagster has heard last, and makes the materialization that tells it.

    Dagster takes an asset without partitions for stale when the data version of an input isn't the
    one noted in the asset's own materialization, and an input with partitions when one of them has
    a later event of other content than the noted event. Both notes are tags; they are made here
    from what DVC says of the inputs, whatever the times of the events.

    Args:
        instance: holds the event log.
        manifest: the project's stages.
        translator: gives asset keys.
    """

    def __init__(
        self, instance: dg.DagsterInstance, *, manifest: DvcManifest, translator: DvcTranslator
    ) -> None:
        """Read the last materialization of every stage."""
        self._instance = instance
        self._manifest = manifest
        self._translator = translator
        self._known: dict[str, Known] = {}
        for group in manifest.groups:
            self.refresh(group)

    def asset_key(self, group: str) -> dg.AssetKey:
        """The asset of a group of stages."""
        return self._translator.get_asset_key(self._manifest, group)

    def is_told(self, node: StageNode, *, locked: LockedStage, outdated: Set[str]) -> bool:
        """Whether Dagster's last materialization says what DVC recorded; `outdated` is as for `materialization`."""
        known = self._known.get(node.name)
        wanted = self._tags(node, locked=locked, outdated=outdated)
        return known is not None and all(
            known.tags.get(tag) == value for tag, value in wanted.items()
        )

    def materialization(
        self,
        node: StageNode,
        *,
        locked: LockedStage,
        outdated: Set[str],
        metadata: Mapping[str, Any],
    ) -> dg.AssetMaterialization:
        """The event that tells Dagster of a stage. After it is in the event log, call `refresh`.

        Args:
            node: the stage.
            locked: what DVC recorded of it.
            outdated: groups upstream whose present output isn't what the stage was made from.
            metadata: of the event.
        """
        tags = self._tags(node, locked=locked, outdated=outdated) | dict(
            self._pointers(node, outdated=outdated)
        )
        return dg.AssetMaterialization(
            asset_key=self.asset_key(node.group),
            partition=node.key,
            metadata=metadata,
            tags=tags | {DATA_VERSION_IS_USER_PROVIDED_TAG: "true"},
        )

    def refresh(self, group: str, *, only: str | None = None) -> None:
        """Read the last materializations of the stages of `group`, or of the stage `only`, again."""
        key = self.asset_key(group)
        names = [only] if only else list(self._manifest.groups[group])
        if self._is_partitioned(group):
            partitions = {str(self._manifest.stages[name].key) for name in names}
            kind = dg.DagsterEventType.ASSET_MATERIALIZATION
            latest = self._instance.event_log_storage.get_latest_storage_id_by_partition(
                key, kind, partitions=partitions
            )
            ids = sorted(latest.values())
        else:
            ids = [
                record.storage_id
                for record in self._instance.fetch_materializations(key, limit=1).records
            ]
        by_key = {self._manifest.stages[name].key: name for name in names}
        for start in range(0, len(ids), RECORDS_AT_ONCE):
            wanted = dg.AssetRecordsFilter(
                asset_key=key, storage_ids=ids[start : start + RECORDS_AT_ONCE]
            )
            for record in self._instance.fetch_materializations(
                wanted, limit=RECORDS_AT_ONCE
            ).records:
                assert record.asset_materialization is not None
                name = by_key.get(record.partition_key)
                if name is not None:
                    self._known[name] = Known(
                        record.storage_id, record.asset_materialization.tags or {}
                    )

    def _tags(self, node: StageNode, *, locked: LockedStage, outdated: Set[str]) -> dict[str, str]:
        """The tags that a materialization of the stage has to have, pointers to events aside."""
        tags = stage_tags(locked) | {
            DATA_VERSION_TAG: data_version(locked),
            CODE_VERSION_TAG: recorded_code_version(self._manifest, node, locked=locked),
        }
        for group in self._upstream_groups(node):
            current = self._known.get(self._manifest.groups[group][0])
            if self._is_partitioned(group) or current is None:
                continue
            tag, version = (
                get_input_data_version_tag(self.asset_key(group)),
                current.tags.get(DATA_VERSION_TAG, ""),
            )
            if group in outdated:
                # Which earlier output it was made from only its own last event can tell.
                noted = self._known[node.name].tags.get(tag) if node.name in self._known else None
                version = noted if noted not in (None, version) else f"before-{version}"
            tags[tag] = version
        return tags

    def _pointers(self, node: StageNode, *, outdated: Set[str]) -> Iterator[tuple[str, str]]:
        """Tags that name the last event of each input that the stage knows of."""
        for group in self._upstream_groups(node):
            key = self.asset_key(group)
            names = [
                name
                for name in self._manifest.groups[group]
                if name in node.upstream and name in self._known
            ]
            ids = [self._known[name].storage_id for name in names]
            pointer = min(ids, default=1) - 1 if group in outdated else max(ids, default=0)
            yield get_input_event_pointer_tag(key), str(pointer) if pointer else NULL_EVENT_POINTER
            if self._is_partitioned(group):
                versions = sorted(
                    self._known[name].tags.get(DATA_VERSION_TAG, "") for name in names
                )
                yield (
                    get_input_data_version_tag(key),
                    hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:32],
                )

    def _upstream_groups(self, node: StageNode) -> list[str]:
        return list(dict.fromkeys(self._manifest.stages[name].group for name in node.upstream))

    def _is_partitioned(self, group: str) -> bool:
        return self._manifest.stages[self._manifest.groups[group][0]].key is not None
