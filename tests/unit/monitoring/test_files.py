"""Alert rules and dashboard: every metric and label that they name exists, and promtool takes them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from nova_netagent.metrics import Metrics

FOLDER = Path(__file__).resolve().parents[3] / "monitoring"
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
UNPACKED = Path(__file__).resolve().parents[3] / ".debian" / "prometheus" / "usr" / "bin"
PROMTOOL = shutil.which("promtool", path=f"{UNPACKED}:{os.environ['PATH']}")

_NAMES = re.compile(r"\b(netagent_[a-z_]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"by \(([^)]*)\)")
_LEGEND = re.compile(r"\{\{\s*(\w+)")
_FROM_PROMETHEUS = {"instance", "job", "le"}


def labels_by_metric() -> Mapping[str, set[str]]:
    """Each name that /metrics has, with its labels."""
    found: dict[str, set[str]] = {}
    for name, metric in vars(Metrics()).items():
        if hasattr(metric, "_labelnames"):
            endings = ("_bucket", "_sum", "_count") if type(metric).__name__ == "Histogram" else ("",)
            for ending in endings:
                found[f"netagent_{name}{ending}"] = set(metric._labelnames)
    return found


KNOWN = labels_by_metric()


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> Iterator[tuple[str, str]]:
    """Every query, and the labels that what shows it names."""
    for rule in ALERTS["groups"][0]["rules"]:
        yield rule["expr"], " ".join(rule["annotations"].values()).replace("$labels.", "")
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("expression", "shown"), list(expressions()))
def test_every_metric_and_label_exists(expression: str, shown: str) -> None:
    labels = set(_FROM_PROMETHEUS)
    for name, matchers in _NAMES.findall(expression):
        assert name in KNOWN
        labels |= KNOWN[name]
        assert set(re.findall(r"(\w+)\s*[=!]~?", matchers)) <= KNOWN[name] | _FROM_PROMETHEUS
    if "netagent_" in _NAMES.sub("netagent_", expression) and "textfile" not in expression:
        for group in _BY.findall(expression):
            assert set(re.split(r",\s*", group)) <= labels
        assert set(_LEGEND.findall(shown)) <= labels


CONTRACT = (
    "event_to_kernel_seconds apply_seconds applies_total apply_errors_total apply_retries_total drift_repairs_total"
    " lock_wait_seconds edits_total rules chains objects pending_oldest_seconds resync_seconds rpc_messages_total"
    " http_requests_total http_request_seconds conntrack_deleted_total store_seconds"
)


def test_what_the_contract_names_is_shown() -> None:
    shown = {name.removesuffix("_bucket") for expression, _ in expressions() for name, _ in _NAMES.findall(expression)}
    assert {f"netagent_{name}" for name in CONTRACT.split()} <= shown


def test_without_rpc_nobody_is_told_that_it_is_not_connected() -> None:
    """There is an alert for it."""
    metrics = Metrics()
    assert b"netagent_rpc_connected" not in metrics.text()
    metrics.with_rpc()
    assert b"netagent_rpc_connected 0.0" in metrics.text()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_every_alert_says_what_to_do() -> None:
    for rule in ALERTS["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is neither installed nor unpacked")
@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_takes_them(words: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
