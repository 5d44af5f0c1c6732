"""Schedules; off until they are switched on in the UI."""

from collections.abc import Sequence

import dagster as dg

from dagster_project.defs.jobs import Job


def build_schedules(jobs: Sequence[Job]) -> list[dg.ScheduleDefinition]:
    """A nightly evaluation, where there is a job for it: it runs what has changed since, and nothing where nothing has."""
    return [
        dg.ScheduleDefinition(
            name="nightly_evaluation",
            job=job,
            cron_schedule="0 2 * * *",
            execution_timezone="UTC",
            description="Score every arm, judge every method and look for copies at night",
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
        for job in jobs
        if job.name == "evaluation"
    ]
