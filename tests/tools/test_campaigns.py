"""The campaigns, short: what they find is refused with one message, and they find what isn't."""

import random

from tools import fuzz_datasets, fuzz_models, fuzz_params
from tools.campaign import FINE, Campaign, Case, run_campaign, table


def check(campaign: Campaign) -> None:
    outcomes = run_campaign(campaign)
    assert outcomes
    for outcome in outcomes:
        assert outcome.kind in FINE, f"{outcome.kind}: {outcome.case}\n{outcome.text}"


def test_params() -> None:
    campaign = fuzz_params.make_campaign(60, random.Random(1))
    names = {case.name for case in campaign.cases}
    assert {"an alias bomb", "a FIFO", "two documents"} <= names
    check(campaign)


def test_datasets() -> None:
    check(fuzz_datasets.make_campaign(9, random.Random(1)))


def test_model_folders() -> None:
    campaign = fuzz_models.make_campaign(74, random.Random(1))
    names = ("vae: int8", "text_encoder: one tensor missing")
    chosen = [case for case in campaign.cases if case.name in names]
    check(Campaign(**{**vars(campaign), "cases": chosen}))


def test_a_campaign_sees_what_is_taken_and_what_hangs() -> None:
    sound = fuzz_params.make_campaign(0, random.Random(0))
    cases = [Case("nothing", lambda _: None), Case("nothing either", lambda _: None, False)]
    outcomes = run_campaign(Campaign(**{**vars(sound), "cases": cases}))
    assert [outcome.kind for outcome in outcomes] == ["accepted", "harmless"]
    report = Case("a report", lambda f: (f / "params.yaml").write_text("seed: 0"), True, ("x",))
    outcomes += run_campaign(Campaign(**{**vars(sound), "cases": [report]}))
    assert outcomes[-1].kind == "traceback", "a usage message is no message of seggen's"
    assert "| 3 | 0 | 1 | 1 | 1 | 0 | 0 |" in table("x", outcomes, seconds=0)
