"""Brings what a run has reported to a store: live from its process, or later from its log."""

from typing import TYPE_CHECKING

from seggen_core.tracking.metrics_log import MetricsLog, RunRecord

if TYPE_CHECKING:
    from seggen_core.tracking.mlflow_store import MlflowStore


def deliver(record: RunRecord, *, store: "MlflowStore", log: MetricsLog) -> Exception | None:
    """Send what `store` lacks of a run, noting in `log` how far it got.

    Returns:
        Why some events are still missing, or None.

    Raises:
        What the client raises where the run can't be created or sought.
    """
    label = store.target.label
    delivery = record.deliveries.get(label)
    if delivery is None:
        run_id = store.create_run(record.events[0])
        log.append(record.set_delivery(label, run_id=run_id, missing=record.events))
    else:
        run_id = delivery.run_id
    undelivered = record.undelivered(label)
    if not undelivered:
        return None
    missing, reason = store.send(run_id, undelivered)
    log.append(record.set_delivery(label, run_id=run_id, missing=missing))
    return reason
