#!/usr/bin/env python3
# tools/helm/dashboards.py - Grafana's dashboards of the chart, from a table of rows: what is asked, and how it is drawn.
#
#   dashboards.py           writes helm/diptych/dashboards/*.json
#   dashboards.py --check   says which one is not what this table says, and ends with 1
#
# FRONT selects the coordinators' pages, PANELS the workers'; both are variables of the dashboard, so that one Grafana can
# show many releases. A panel is (title, unit, [(query, legend), ...]) or with kind="stat", "bars", "table" behind it.
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "helm" / "diptych" / "dashboards"
FRONT = 'namespace="$namespace",job="$job"'
PANELS = 'namespace="$namespace",job=~"$panels"'
WIDTH = 24


def quantile(share, metric, by=""):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{FRONT}}}[$__rate_interval])))"


def front(metric, more=""):
    return f"{metric}{{{FRONT}{',' + more if more else ''}}}"


def rate(metric, by, more=""):
    return f"sum by ({by}) (rate({front(metric, more)}[$__rate_interval]))" if by else f"sum(rate({front(metric, more)}[$__rate_interval]))"


OVERVIEW = [
    ("Is it well?", [
        ("Leader", "none", [(f"max({front('diptych_coordinator_is_leader')})", "leads")], "stat"),
        ("Workers ready", "none", [(f"max by (pool) ({front('diptych_pool_workers', 'state=' + chr(34) + 'ready' + chr(34))})", "{{pool}}")], "stat"),
        ("Waiting now", "none", [(f"max by (pool) ({front('diptych_queue_depth')})", "{{pool}}")], "stat"),
        ("Oldest wait", "s", [(f"max by (pool) ({front('diptych_queue_oldest_seconds')})", "{{pool}}")], "stat"),
        ("etcd", "none", [(f"min({front('diptych_etcd_up')})", "answers")], "stat"),
        ("Given up as poison, 1 h", "none", [(f"sum(increase({front('diptych_poisoned_total')}[1h]))", "requests")], "stat"),
    ]),
    ("What comes and goes", [
        ("Requests", "reqps", [(rate("diptych_admitted_total", ""), "admitted"), (rate("diptych_succeeded_total", ""), "done"),
                               (rate("diptych_failed_total", "reason"), "failed {{reason}}"), (rate("diptych_cancelled_total", ""), "cancelled")]),
        ("Refused, by reason", "reqps", [(rate("diptych_admission_rejected_total", "reason"), "{{reason}}")]),
        ("Images and pixels", "short", [(rate("diptych_images_total", "model"), "{{model}} images/s"), (rate("diptych_pixels_total", "model") + " / 1e6", "{{model}} megapixels/s")]),
    ]),
    ("How long it takes", [
        ("Whole requests", "s", [(quantile(0.5, "diptych_request_duration_seconds"), "half"), (quantile(0.95, "diptych_request_duration_seconds"), "95 %"), (quantile(0.99, "diptych_request_duration_seconds"), "99 %")]),
        ("First word, first preview", "s", [(quantile(0.95, "diptych_time_to_first_event_seconds"), "first event, 95 %"), (quantile(0.95, "diptych_time_to_first_preview_seconds"), "first preview, 95 %")]),
        ("Queue", "none", [(f"max by (pool) ({front('diptych_queue_depth')})", "{{pool}} waiting"), (f"max({front('diptych_held_requests')})", "held for a worker to come"), (f"max by (role) ({front('diptych_inflight')})", "{{role}} in slots")]),
    ]),
    ("Scale", [
        ("Wanted and there", "none", [(f"max by (pool) ({front('diptych_scale_wanted')})", "{{pool}} wanted"), (f"max by (pool) ({front('diptych_scale_current')})", "{{pool}} there")]),
        ("Slots taken", "percentunit", [(f"sum by (role) ({front('diptych_slots_busy')}) / clamp_min(sum by (role) ({front('diptych_slots')}), 1)", "{{role}}")]),
        ("Begun anew", "none", [(f"sum by (reason) (increase({front('diptych_replays_total')}[$__rate_interval]))", "{{reason}}")]),
    ]),
    ("Control plane", [
        ("Changes of leader", "none", [(f"sum(increase({front('diptych_leader_changes_total')}[$__rate_interval]))", "changes")]),
        ("Calls passed on by a standby", "reqps", [(rate("diptych_forwarded_calls_total", "pod"), "{{pod}}")]),
        ("Certificates end in", "s", [(f"min by (pod, file) ({front('diptych_certificate_expiry_timestamp_seconds')} > 0) - time()", "{{pod}} {{file}}")]),
    ]),
]

WORKERS = [
    ("Who is there", [
        ("State", "none", [(f"max by (role, worker, state) ({front('diptych_worker_state')}) == 1", "{{role}} {{worker}} {{state}}")], "table"),
        ("Mean step", "s", [(f"max by (role, worker) ({front('diptych_worker_step_mean_seconds')})", "{{role}} {{worker}}")], "bars"),
        ("Since the last step", "s", [(f"time() - (max by (role, worker) ({front('diptych_worker_last_progress_timestamp_seconds')}) > 0)", "{{role}} {{worker}}")], "bars"),
    ]),
    ("Steps", [
        ("Steps a second", "short", [(f"sum by (role, worker) (rate({front('diptych_worker_steps_total')}[$__rate_interval]))", "{{role}} {{worker}}")]),
        ("A step against the panel's median", "short", [(
            f"max by (role, worker) ({front('diptych_worker_step_mean_seconds')}) / on (role) group_left quantile by (role) (0.5, max by (role, worker) ({front('diptych_worker_step_mean_seconds')}))",
            "{{role}} {{worker}}")]),
        ("Steps, 99 %, as workers see them", "s", [(f"histogram_quantile(0.99, sum by (le, role, pod) (rate(diptych_worker_step_seconds_bucket{{{PANELS}}}[$__rate_interval])))", "{{role}} {{pod}}")]),
    ]),
    ("Work in hand", [
        ("Slots taken", "none", [(f"max by (role, worker) ({front('diptych_slots_busy')})", "{{role}} {{worker}}")]),
        ("Hinges held", "none", [(f"sum by (pod) (diptych_worker_hinges{{{PANELS}}})", "{{pod}}")]),
        ("Images being drawn and painted", "none", [(f"sum by (pod) (diptych_worker_ar_busy{{{PANELS}}})", "{{pod}} drawn"), (f"sum by (pod) (diptych_worker_diffusion_busy{{{PANELS}}})", "{{pod}} painted")]),
    ]),
    ("Processes", [
        ("Memory", "bytes", [(f"sum by (pod) (process_resident_memory_bytes{{{PANELS}}})", "{{pod}}")]),
        ("CPU", "short", [(f"sum by (pod) (rate(process_cpu_seconds_total{{{PANELS}}}[$__rate_interval]))", "{{pod}}")]),
        ("Ranks started again", "none", [(f"sum by (pod) (increase(diptych_rank_restarts_total{{{PANELS}}}[$__rate_interval]))", "{{pod}}")]),
    ]),
]

REQUESTS = [
    ("Where the time goes", [
        ("Mean time of a phase", "s", [(f"sum by (phase) (rate({front('diptych_phase_duration_seconds_sum')}[$__rate_interval])) / sum by (phase) (rate({front('diptych_phase_duration_seconds_count')}[$__rate_interval]))", "{{phase}}")]),
        ("95 % of a phase", "s", [(quantile(0.95, "diptych_phase_duration_seconds", "phase"), "{{phase}}")]),
        ("Share of a phase", "percentunit", [(f"sum by (phase) (rate({front('diptych_phase_duration_seconds_sum')}[$__rate_interval])) / on () group_left sum(rate({front('diptych_phase_duration_seconds_sum')}[$__rate_interval]))", "{{phase}}")]),
    ]),
    ("How calls end", [
        ("Calls, by code", "reqps", [(rate("diptych_requests_total", "method, code, reason"), "{{method}} {{code}} {{reason}}")]),
        ("Out of time", "reqps", [(rate("diptych_deadline_exceeded_total", "reason"), "{{reason}}")]),
        ("Not let in", "reqps", [(rate("diptych_auth_failures_total", "reason"), "{{reason}}")]),
    ]),
    ("Slow readers", [
        ("Streams", "none", [(f"sum by (pod) ({front('diptych_streams')})", "{{pod}}")]),
        ("Cut off, previews dropped", "short", [(rate("diptych_stream_stalled_total", ""), "streams cut off"), (rate("diptych_previews_dropped_total", ""), "previews dropped")]),
        ("Held for readers and Watch", "bytes", [(f"sum by (pod) ({front('diptych_bytes_buffered')})", "{{pod}}")]),
    ]),
    ("Work", [
        ("Tokens and steps", "short", [(rate("diptych_ar_tokens_total", "model"), "{{model}} tokens/s"), (rate("diptych_diffusion_steps_total", "model"), "{{model}} steps/s")]),
        ("Finished images kept", "none", [(f"sum by (pod) ({front('diptych_results')})", "{{pod}}")]),
        ("Memory of coordinators", "bytes", [(f"sum by (pod) ({front('process_resident_memory_bytes')})", "{{pod}}")]),
    ]),
]

DASHBOARDS = {"overview": ("Diptych: overview", OVERVIEW), "workers": ("Diptych: workers", WORKERS), "requests": ("Diptych: requests", REQUESTS)}
KINDS = {"stat": "stat", "bars": "bargauge", "table": "table", "lines": "timeseries"}


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1}


def panel(number, x, y, width, height, title, unit, queries, kind="lines"):
    is_now = kind != "lines"
    return {
        "id": number, "title": title, "type": KINDS[kind], "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if kind == "lines" else {},
        "targets": [{"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend, "instant": is_now, "range": not is_now,
                     "format": "table" if kind == "table" else "time_series"} for i, (expr, legend) in enumerate(queries)],
    }


def dashboard(uid, title, rows):
    panels, number, y = [], 1, 0
    for name, cells in rows:
        panels.append({"id": number, "type": "row", "title": name, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "panels": []})
        number, y = number + 1, y + 1
        width, height = WIDTH // len(cells), 4 if all(len(cell) > 3 and cell[3] == "stat" for cell in cells) else 8
        for i, cell in enumerate(cells):
            panels.append(panel(number, i * width, y, width, height, *cell))
            number += 1
        y += height
    return {
        "uid": f"diptych-{uid}", "title": title, "tags": ["diptych"], "timezone": "browser", "schemaVersion": 39, "version": 1,
        "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "editable": True, "panels": panels,
        "templating": {"list": [
            {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"},
            variable("namespace", "namespace", "label_values(diptych_coordinator_is_leader, namespace)"),
            variable("job", "coordinators", 'label_values(diptych_coordinator_is_leader{namespace="$namespace"}, job)'),
            variable("panels", "workers", 'label_values(diptych_worker_connected{namespace="$namespace"}, job)') | {"multi": True, "includeAll": True},
        ]},
    }


def main(words):
    stale = 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for uid, (title, rows) in DASHBOARDS.items():
        path, text = FOLDER / f"{uid}.json", json.dumps(dashboard(uid, title, rows), indent=1) + "\n"
        if words == ["--check"]:
            if not path.exists() or path.read_text() != text:
                print(f"helm/diptych/dashboards/{uid}.json is stale: run tools/helm/dashboards.py")
                stale = 1
        else:
            path.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
