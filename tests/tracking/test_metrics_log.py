import json
import math

from seggen_core.tracking.metrics_log import MetricsLog, RunRecord, encode_metrics, read_log


def start(log, uid="r1"):
    record = RunRecord(uid)
    log.append(record.add("start", name="x", params={}, tags={}))
    return record


def test_values_that_json_lacks_survive():
    text = json.dumps(encode_metrics({"a": math.nan, "b": -math.inf, "c": 1}), allow_nan=False)
    back = {key: float(value) for key, value in json.loads(text).items()}
    assert math.isnan(back["a"]) and back["b"] == -math.inf and back["c"] == 1.0


def test_a_torn_last_line_costs_that_line_only(tmp_path):
    path = tmp_path / "x.jsonl"
    log = MetricsLog(path)
    record = start(log)
    log.append(record.add("metrics", step=1, metrics={"loss": 1.0}))
    log.close()
    with path.open("a") as handle:
        handle.write('{"run":"r1","seq":2,"event":"met')
    log = MetricsLog(path)
    start(log, "r2")
    log.close()
    first, second = read_log(path)
    assert [e["event"] for e in first.events] == ["start", "metrics"]
    assert second.uid == "r2" and len(second.events) == 1


def test_deliveries_are_per_store_and_remember_what_is_missing(tmp_path):
    path = tmp_path / "x.jsonl"
    log = MetricsLog(path)
    record = start(log)
    picture = record.add("artifact", path="a.png", kept="a.png")
    log.append(picture)
    log.append(record.set_delivery("store A", run_id="7", missing=[picture]))
    log.append(record.add("end", status="FINISHED"))
    log.close()
    (back,) = read_log(path)
    assert back.ended
    assert [e["event"] for e in back.undelivered("store A")] == ["artifact", "end"]
    assert [e["event"] for e in back.undelivered("store B")] == ["start", "artifact", "end"]


def test_only_a_log_that_no_live_run_uses_can_be_claimed(tmp_path):
    path = tmp_path / "x.jsonl"
    live = MetricsLog(path)
    live.share()
    record = start(live)
    other = MetricsLog(path)
    assert not other.claim()
    live.close()
    assert other.claim()
    (abandoned,) = other.end_abandoned()
    assert abandoned.uid == record.uid
    assert read_log(path)[0].events[-1]["status"] == "KILLED"
    assert other.end_abandoned() == []
    other.close()


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "metrics").write_text("a file where the folder should be")
    log = MetricsLog(tmp_path / "metrics" / "x.jsonl")
    record = start(log)
    log.append(record.add("end", status="FINISHED"))
    assert not log.claim()
    log.close()
    assert len(caplog.records) == 1 and "metrics" in caplog.text
