#!/usr/bin/env python3
# tests/helm/test_alerts.py - promtool judges the rules and plays histories through them: each alert comes when it must and stays
# away when it must, and leads to its section of the operator's page. Every query of a dashboard is one that Prometheus takes,
# about metrics that the program has.
#
# test_alerts.py DIPTYCH
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import common
from common import CHART, NAMESPACE, ROOT, check, find, render

diptych = sys.argv[1]
RULE = find(render("restricted"), "PrometheusRule")
RULES = [rule for group in RULE["spec"]["groups"] for rule in group["rules"]]
FRONT = f'namespace="{NAMESPACE}",job="{common.FULLNAME}-coordinator-peers"'
AR = f'namespace="{NAMESPACE}",job="{common.FULLNAME}-ar"'


def front(metric, labels="", pod="c-0"):
    return f'{metric}{{{FRONT},pod="{pod}"{"," + labels if labels else ""}}}'


# (alert, series {name: values, a sample a minute}, minute at which it is looked at, [(labels, summary)]: none = it stays away)
HISTORIES = [
    ("DiptychNoLeader", {front("diptych_coordinator_is_leader"): "1 1 0x5", front("diptych_coordinator_is_leader", pod="c-1"): "0x8"}, 4,
     [({}, "no coordinator leads")]),
    ("DiptychNoLeader", {}, 4, [({}, "no coordinator leads")]),  # nobody is there to say so
    ("DiptychNoLeader", {front("diptych_coordinator_is_leader"): "1 0x6", front("diptych_coordinator_is_leader", pod="c-1"): "0 1x6"}, 4, []),
    ("DiptychPoolEmpty", {front("diptych_pool_workers", 'pool="ar",state="ready"'): "0x9", front("diptych_pool_workers", 'pool="diffusion",state="ready"'): "2x9",
                          front("diptych_queue_depth", 'pool="ar"'): "3x9", front("diptych_queue_depth", 'pool="diffusion"'): "3x9"}, 5,
     [({"pool": "ar"}, "the ar panel has no worker, and requests want it")]),
    ("DiptychPoolEmpty", {front("diptych_pool_workers", 'pool="ar",state="ready"'): "0x9", front("diptych_queue_depth", 'pool="ar"'): "0x9",
                          front("diptych_admission_rejected_total", 'reason="NO_WORKERS"'): "0+5x9"}, 5,
     [({"pool": "ar"}, "the ar panel has no worker, and requests want it")]),
    ("DiptychPoolEmpty", {front("diptych_pool_workers", 'pool="ar",state="ready"'): "0x9", front("diptych_queue_depth", 'pool="ar"'): "0x9",
                          front("diptych_admission_rejected_total", 'reason="NO_WORKERS"'): "7x9"}, 5, []),  # scaled to none, and nobody asks
    ("DiptychWorkerStuck", {front("diptych_slots_busy", 'role="ar",worker="w"'): "2x9", front("diptych_slots_busy", 'role="ar",worker="v"'): "2x9",
                            front("diptych_worker_last_progress_timestamp_seconds", 'role="ar",worker="w"'): "60x9",
                            front("diptych_worker_last_progress_timestamp_seconds", 'role="ar",worker="v"'): "0+60x9"}, 4,
     [({"role": "ar", "worker": "w"}, "w has work and makes no step")]),
    ("DiptychWorkerStuck", {front("diptych_slots_busy", 'role="ar",worker="w"'): "0x9",
                            front("diptych_worker_last_progress_timestamp_seconds", 'role="ar",worker="w"'): "60x9"}, 6, []),  # idle
    ("DiptychPoisoned", {front("diptych_poisoned_total"): "0 0 1x9"}, 5, [({}, "a request took workers down and was given up")]),
    ("DiptychPoisoned", {front("diptych_poisoned_total"): "3x30"}, 25, []),
    ("DiptychOldestWait", {front("diptych_queue_oldest_seconds", 'pool="diffusion"'): "90x9", front("diptych_queue_oldest_seconds", 'pool="ar"'): "50x9"}, 4,
     [({"pool": "diffusion"}, "a request waits for the diffusion panel for 1m 30s")]),
    ("DiptychRejecting", {front("diptych_admission_rejected_total", 'reason="OVERLOADED"'): "0+20x20", front("diptych_admitted_total"): "0+80x20"}, 15,
     [({}, "20% of requests are refused")]),
    ("DiptychRejecting", {front("diptych_admission_rejected_total", 'reason="OVERLOADED"'): "0+5x20", front("diptych_admitted_total"): "0+95x20"}, 15, []),
    ("DiptychRejecting", {front("diptych_admission_rejected_total", 'reason="OVERLOADED"'): "0x20", front("diptych_admitted_total"): "0x20"}, 15, []),
    ("DiptychReplays", {front("diptych_replays_total", 'reason="worker_lost"'): "0+4x40", front("diptych_replays_total", 'reason="handed_back"'): "0+9x40",
                        front("diptych_images_total", 'model="m"'): "0+100x40"}, 30, [({}, "4% of images began anew because their worker was lost")]),
    ("DiptychReplays", {front("diptych_replays_total", 'reason="worker_lost"'): "0x40", front("diptych_replays_total", 'reason="handed_back"'): "0+9x40",
                        front("diptych_images_total", 'model="m"'): "0+100x40"}, 30, []),  # drains hand back; that is no alarm
    ("DiptychSlowWorker", {front("diptych_worker_step_mean_seconds", f'role="diffusion",worker="{name}"'): f"{step}x30"
                           for name, step in (("a", "0.02"), ("b", "0.02"), ("c", "0.05"))}, 20,
     [({"role": "diffusion", "worker": "c"}, "c takes 2.5 times its panel's median for a step")]),
    ("DiptychSlowWorker", {front("diptych_worker_step_mean_seconds", f'role="{role}",worker="{role}"'): f"{step}x30"
                           for role, step in (("ar", "0.01"), ("diffusion", "0.09"))}, 20, []),  # panels are not compared with each other
    ("DiptychLeaderFlaps", {front("diptych_leader_changes_total"): "0+1x40", front("diptych_leader_changes_total", pod="c-1"): "0+1x40"}, 35,
     [({}, "the leader changed 60 times in half an hour")]),
    ("DiptychLeaderFlaps", {front("diptych_leader_changes_total"): "0 1x40", front("diptych_leader_changes_total", pod="c-1"): "0 1x40"}, 25, []),  # an upgrade
    ("DiptychEtcdDown", {front("diptych_etcd_up"): "1 0x20", f'diptych_etcd_up{{{AR},pod="ar-0"}}': "1 0x20"}, 10, [({}, "2 processes cannot reach etcd")]),
    ("DiptychEtcdDown", {front("diptych_etcd_up"): "1 0 0 0 1x20"}, 10, []),  # it came back
    ("DiptychCertificateExpires", {front("diptych_certificate_expiry_timestamp_seconds", 'file="tls_cert"'): "864000x30",
                                   front("diptych_certificate_expiry_timestamp_seconds", 'file="etcd_cert"'): "0x30",
                                   front("diptych_certificate_expiry_timestamp_seconds", 'file="tls_ca"'): "8640000x30"}, 20,
     [({"pod": "c-0", "file": "tls_cert"}, "tls_cert of c-0 ends in 9d 23h 40m 0s")]),
    ("DiptychRankRestarts", {f'diptych_rank_restarts_total{{{AR},pod="ar-0",rank="1"}}': "0 0 1x9"}, 5, [({"pod": "ar-0"}, "ranks in ar-0 died and were started again")]),
    ("DiptychRankRestarts", {f'diptych_rank_restarts_total{{{AR},pod="ar-0",rank="1"}}': "2x30"}, 25, []),
    ("DiptychUnderScaled", {front("diptych_scale_wanted", 'pool="diffusion"'): "7x30", front("diptych_scale_current", 'pool="diffusion"'): "4x30",
                            front("diptych_scale_wanted", 'pool="ar"'): "1x30", front("diptych_scale_current", 'pool="ar"'): "1x30"}, 20,
     [({"pool": "diffusion"}, "the diffusion panel wants 7 workers, and has fewer")]),
]


def expected(alert, labels, summary):
    rule = next(rule for rule in RULES if rule["alert"] == alert)
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"] | {"summary": summary}}


def history(alert, series, minute, alerts):
    return {"interval": "1m", "name": alert, "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": [expected(alert, *one) for one in alerts]}]}


def promtool(*words):
    return common.run("promtool", *words)


# ---- the rules ----
with tempfile.TemporaryDirectory() as folder:
    rules, tests = pathlib.Path(folder) / "rules.yaml", pathlib.Path(folder) / "tests.yaml"
    rules.write_text(json.dumps(RULE["spec"]))
    made = promtool("check", "rules", rules)
    check(made.returncode == 0 and f"{len(RULES)} rules found" in made.stdout + made.stderr, f"promtool check rules: {made.stdout}{made.stderr}")
    tests.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "30s", "tests": [history(*one) for one in HISTORIES]}))
    made = promtool("test", "rules", tests)
    check(made.returncode == 0 and "SUCCESS" in made.stdout, f"promtool test rules: {made.stdout}{made.stderr}")
    # A history that must fail does, or the above says nothing.
    alert, series, minute, _ = HISTORIES[0]
    tests.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "30s", "tests": [history(alert, series, minute, [])]}))
    check(promtool("test", "rules", tests).returncode != 0, "promtool finds nothing wrong with an alert that was not expected")

played = {alert for alert, _, _, alerts in HISTORIES if alerts}
for rule in RULES:
    name = rule["alert"]
    check(name in played, f"{name}: no history in which it comes")
    check(rule["labels"]["severity"] in ("critical", "warning", "info") and rule["labels"]["team"] == "pictures", f"{name}: {rule['labels']}")
    check(rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}", f"{name}: {rule['annotations']['runbook_url']}")
    check(re.search(rf"^### {name}$", (ROOT / "docs" / "operations.md").read_text(), re.M), f"docs/operations.md has no section {name}")

# ---- metrics that are asked for exist: on the pages of processes that have just started ----
def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def page(port):
    """A process's page of metrics; it is there before the model is."""
    for _ in range(300):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"no page of metrics at port {port}")


def scrape():
    """What the three kinds of process show: {family}, {family: [labels]}"""
    common_words = ["--model", str(ROOT / "tests" / "golden" / "tiny-a" / "model"), "--listen", "127.0.0.1:0"]
    families, series, running = set(), {}, []
    for words in (["coordinator"], ["worker", "--server", "127.0.0.1:1"], ["worker", "--role", "ar", "--ranks", "2", "--server", "127.0.0.1:1"]):
        port = free_port()
        words = [diptych, *words, *common_words, "--http", f"127.0.0.1:{port}"]
        running.append((subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port))
    try:
        for _, port in running:
            for line in page(port).splitlines():
                if line.startswith("# TYPE "):
                    families.add(line.split()[2])
                elif not line.startswith("#"):
                    name, _, rest = line.partition("{")
                    series.setdefault(name.split()[0], []).append(dict(re.findall(r'(\w+)="([^"]*)"', rest)))
    finally:
        for process, _ in running:
            process.terminate()
        for process, _ in running:
            process.wait(timeout=60)
    return families, series


metrics, series = scrape()
check(len(metrics) > 50, f"only {len(metrics)} metrics on the pages")
FROM_OUTSIDE = {"namespace", "job", "pod", "worker"}  # Prometheus' own labels, and names of workers


def metrics_of(query):
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', query)  # not what stands in labels' values
    names = re.findall(r"\b((?:diptych|process)_[a-z0-9_]+)", bare)
    return {name if name in metrics else re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def check_query(where, query):
    asked = metrics_of(query)
    check(asked, f"{where}: asks for no metric: {query}")
    check(asked <= metrics, f"{where}: the program has no {sorted(asked - metrics)}")
    for name, labels in re.findall(r"\b((?:diptych|process)_[a-z0-9_]+)\{([^}]*)\}", query):
        wanted = {label: value for label, value in re.findall(r'(\w+)="([^"]*)"', labels) if label not in FROM_OUTSIDE}
        check(not wanted or any(wanted.items() <= one.items() for one in series.get(name, [])),
              f"{where}: no series of {name} has {wanted} from the start")


for rule in RULES:
    check_query(rule["alert"], rule["expr"])
queries = []
for path in sorted((CHART / "dashboards").glob("*.json")):
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            check_query(f"{path.name}: {panel['title']}", target["expr"])
            queries.append(target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            check_query(f"{path.name}: {variable['name']}", variable["definition"])
check(len(queries) >= 40, f"only {len(queries)} queries on the dashboards")
with tempfile.TemporaryDirectory() as folder:
    rules = pathlib.Path(folder) / "queries.yaml"
    filled = [query.replace("$__rate_interval", "5m").replace("$namespace", "n").replace("$job", "j").replace("$panels", "p") for query in queries]
    rules.write_text(json.dumps({"groups": [{"name": "queries", "rules": [{"record": f"query:{i}", "expr": query} for i, query in enumerate(filled)]}]}))
    made = promtool("check", "rules", rules)
    check(made.returncode == 0, f"Prometheus does not take the queries of the dashboards: {made.stdout}{made.stderr}")
shown = {one["metadata"]["name"] for one in render("restricted") if one["kind"] == "ConfigMap"}
check(shown == {f"{common.FULLNAME}-dashboard-{name}" for name in ("overview", "workers", "requests")}, f"dashboards: {sorted(shown)}")
common.finish("alerts")
