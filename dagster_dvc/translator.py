"""How a group of DVC stages becomes an asset: one method per property, each to be overridden alone.

What DVC has no word for is read from `meta` in dvc.yaml:

    masksyn:
      meta:
        dagster: {group: synthesis, kinds: [pytorch, diffusers], owners: ["team:data"], pool: gpu}

`hidden: true` makes no asset of a stage: others run it when they need it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_dvc.errors import DvcProjectError
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.partitions import partition_mapping, partitions_of
from dagster_dvc.versions import code_version

META_KEYS = {"group", "hidden", "kinds", "owners", "pool", "tags"}


class DvcTranslator:
    """Derives the properties of an asset from a group of stages of one manifest.

    Override a method to derive one property in another way:

        class PrefixedTranslator(DvcTranslator):
            def get_asset_key(self, manifest, group):
                return super().get_asset_key(manifest, group).with_prefix("vision")
    """

    def get_asset_key(self, manifest: DvcManifest, group: str) -> dg.AssetKey:  # noqa: ARG002 (for those who override it)
        """The entry's name in dvc.yaml."""
        return dg.AssetKey(group)

    def get_description(self, manifest: DvcManifest, group: str) -> str:
        """`desc` in dvc.yaml."""
        return _first(manifest, group).desc or f"Stage {group} of dvc.yaml"

    def get_group_name(self, manifest: DvcManifest, group: str) -> str | None:
        """`meta.dagster.group`; None is Dagster's default group."""
        return self.get_meta(manifest, group).get("group")

    def get_owners(self, manifest: DvcManifest, group: str) -> Sequence[str]:
        """`meta.dagster.owners`: e-mail addresses or "team:..."."""
        return list(self.get_meta(manifest, group).get("owners", []))

    def get_kinds(self, manifest: DvcManifest, group: str) -> set[str]:
        """Kind "dvc" and `meta.dagster.kinds`; Dagster shows three."""
        return {"dvc", *self.get_meta(manifest, group).get("kinds", [])}

    def get_tags(self, manifest: DvcManifest, group: str) -> Mapping[str, str]:
        """`meta.dagster.tags`, and the stage's name."""
        return {"dvc/stage": group, **self.get_meta(manifest, group).get("tags", {})}

    def get_metadata(self, manifest: DvcManifest, group: str) -> Mapping[str, Any]:
        """What the stage reads and writes, and its command, as dvc.yaml states them."""
        node = _first(manifest, group)
        params = [f"{file}:{key}" for file, keys in node.params.items() for key in keys]
        listed = {"dvc/deps": node.deps, "dvc/params": params, "dvc/outs": node.outs}
        command = {"dvc/cmd": "; ".join(node.template)}
        return command | {
            name: dg.MetadataValue.json(list(values)) for name, values in listed.items() if values
        }

    def get_code_version(self, manifest: DvcManifest, group: str) -> str:
        """A hash of the command, the parameters and the sources."""
        return code_version(manifest, group)

    def get_partitions_def(
        self, manifest: DvcManifest, group: str
    ) -> dg.PartitionsDefinition | None:
        """One partition per item of `matrix` or `foreach`."""
        return partitions_of(manifest, group)

    def get_partition_mapping(
        self, manifest: DvcManifest, *, downstream: str, upstream: str
    ) -> dg.PartitionMapping | None:
        """Which partitions read which, from DVC's edges."""
        return partition_mapping(manifest, downstream=downstream, upstream=upstream)

    def get_retry_policy(self, manifest: DvcManifest, group: str) -> dg.RetryPolicy | None:  # noqa: ARG002 (for those who override it)
        """Two more tries, after 20 s and 40 s, for a failure that another try may mend."""
        return dg.RetryPolicy(max_retries=2, delay=20, backoff=dg.Backoff.LINEAR)

    def get_backfill_policy(self, manifest: DvcManifest, group: str) -> dg.BackfillPolicy | None:  # noqa: ARG002 (for those who override it)
        """None, Dagster's own: one run a partition, so that each can be cancelled alone.

        (`multi_run(1)` isn't that: its runs have a range of partitions, with one in it, and no
        partition key.)
        """
        return None

    def get_pool(self, manifest: DvcManifest, group: str) -> str | None:
        """`meta.dagster.pool`: stages of one pool share its slots."""
        return self.get_meta(manifest, group).get("pool")

    def get_automation_condition(
        self, manifest: DvcManifest, group: str
    ) -> dg.AutomationCondition | None:
        """Run again once an input has a new materialization that has passed its blocking checks."""
        if not any(manifest.visible_upstream(name) for name in manifest.groups[group]):
            return None
        condition = dg.AutomationCondition.any_deps_updated().since_last_handled()
        waiting = (
            dg.AutomationCondition.any_deps_missing()
            | dg.AutomationCondition.any_deps_in_progress()
        )
        ready = (
            ~waiting
            & ~dg.AutomationCondition.in_progress()
            & dg.AutomationCondition.all_deps_blocking_checks_passed()
        )
        return (condition & ready).with_label("an input is new")

    def get_asset_spec(self, manifest: DvcManifest, group: str) -> dg.AssetSpec:
        """All of it together."""
        upstream = {
            manifest.stages[parent].group
            for name in manifest.groups[group]
            for parent in manifest.visible_upstream(name)
        }
        deps = [
            dg.AssetDep(
                self.get_asset_key(manifest, parent),
                partition_mapping=self.get_partition_mapping(
                    manifest, downstream=group, upstream=parent
                ),
            )
            for parent in manifest.groups
            if parent in upstream - {group}
        ]
        return dg.AssetSpec(
            key=self.get_asset_key(manifest, group),
            deps=deps,
            description=self.get_description(manifest, group),
            metadata=self.get_metadata(manifest, group),
            group_name=self.get_group_name(manifest, group),
            code_version=self.get_code_version(manifest, group),
            automation_condition=self.get_automation_condition(manifest, group),
            owners=self.get_owners(manifest, group),
            tags=self.get_tags(manifest, group),
            kinds=self.get_kinds(manifest, group),
            partitions_def=self.get_partitions_def(manifest, group),
        )

    def get_meta(self, manifest: DvcManifest, group: str) -> Mapping[str, Any]:
        """`meta.dagster` of the group.

        Raises:
            DvcProjectError: it is no mapping, or has an unknown key.
        """
        meta = _first(manifest, group).meta.get("dagster", {})
        if not isinstance(meta, dict) or not meta.keys() <= META_KEYS:
            raise DvcProjectError(
                f"meta.dagster of {group} in dvc.yaml is {meta!r}; "
                f"known keys: {', '.join(sorted(META_KEYS))}"
            )
        return meta


def _first(manifest: DvcManifest, group: str) -> StageNode:
    return manifest.stages[manifest.groups[group][0]]
