# tests/helm/common.py - the chart rendered by the real helm, and a way to say what is expected of it.
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "diptych"
MADE = ROOT / "build" / "helm"
HELM = MADE / "helm"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "pictures", "studio"
FULLNAME = "pictures-diptych"
# Nothing of the user's: no plugins, no repositories, no cluster.
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "HELM_NO_PLUGINS": "1", "KUBECONFIG": "/dev/null"}

counts = {"checks": 0, "failed": 0}


def check(condition, sentence):
    """One expectation. A sentence says what is wrong when it is not met."""
    counts["checks"] += 1
    if not condition:
        counts["failed"] += 1
        print(f"FAILED: {sentence}")
    return bool(condition)


def finish(name):
    print(f"{name}: {counts['checks']} checks, {counts['failed']} failed")
    sys.exit(1 if counts["failed"] else 0)


def run(*words, **options):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=options.pop("timeout", 120), **options)


def helm(command, *words, values=None, kube="1.36.0"):
    """helm COMMAND of the chart; `values`: an object that goes in as a file after all others."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        if values is not None:
            json.dump(values, file)
            file.flush()
            words += ("-f", file.name)
        if command == "template":
            words = (RELEASE, CHART, "-n", NAMESPACE, "--kube-version", kube, *words)
        else:
            words = (CHART, *words)
        return run(HELM, command, *words)


def case_file(case):
    return CHART / "ci" / f"{case}-values.yaml"


def render(case, *words, values=None, notes=False):
    """The objects of a ci file as a list, or with `notes` the text of NOTES.txt."""
    words = ("-f", case_file(case), *words) if case else words
    made = helm("template", *words, values=values)
    if made.returncode:
        raise SystemExit(f"{case}: helm template failed: {made.stderr}")
    return [one for one in yaml.safe_load_all(made.stdout) if one]


def render_notes(case, values=None):
    """helm shows the notes only of an install; a dry run of one needs no cluster."""
    words = ("install", RELEASE, CHART, "-n", NAMESPACE, "--dry-run=client")
    if case:
        words += ("-f", case_file(case))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        if values is not None:
            json.dump(values, file)
            file.flush()
            words += ("-f", file.name)
        made = run(HELM, *words)
    if made.returncode:
        raise SystemExit(f"{case}: helm install --dry-run failed: {made.stderr}")
    return made.stdout.split("NOTES:\n", 1)[1]


def find(objects, kind, name=None):
    """The one object of a kind, with FULLNAME-name."""
    wanted = FULLNAME if name in (None, "") else f"{FULLNAME}-{name}"
    found = [one for one in objects if one["kind"] == kind and (name is None or one["metadata"]["name"] == wanted)]
    return found[0] if len(found) == 1 else None


def pod_specs(objects):
    """(name, labels, pod spec) of everything that becomes a pod."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one["metadata"]["labels"], one["spec"]
        elif one["kind"] in ("Deployment", "StatefulSet"):
            yield name, one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"]
        elif one["kind"] == "LeaderWorkerSet":
            template = one["spec"]["leaderWorkerTemplate"]["workerTemplate"]
            yield name, template["metadata"]["labels"], template["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def program_commands(objects):
    """(name, args, env) of every container that runs diptych: its image has the program as its entry point."""
    for name, _, spec in pod_specs(objects):
        for container in containers(spec):
            if "command" not in container and container["name"] != "model-fill":
                yield f"{name}/{container['name']}", container.get("args", []), container.get("env", [])


def flags(args):
    """--name=value of a list of arguments as a table; a flag without a value is None."""
    table = {}
    for arg in args:
        if arg == "--":
            break
        if arg.startswith("--"):
            name, equal, value = arg.partition("=")
            table[name] = value if equal else None
    return table


def keys():
    """The keys of values.yaml with their annotations, as tools/helm/chart.py reads them."""
    made = run("/usr/bin/python3", ROOT / "tools" / "helm" / "chart.py", "--keys")
    if made.returncode:
        raise SystemExit(made.stderr)
    return [json.loads(line) for line in made.stdout.splitlines()]


def nested(path, value):
    for part in reversed(path):
        value = {part: value}
    return value


def merged(one, other):
    """Two trees of values as one."""
    made = dict(one)
    for name, value in other.items():
        made[name] = merged(made[name], value) if isinstance(value, dict) and isinstance(made.get(name), dict) else value
    return made
