#!/usr/bin/env python3
# tests/helm/test_values.py - values.yaml against the program's own table of options, what is made from it, and what is refused
# in which words.
#
# test_values.py DIPTYCH
import re
import sys
import tempfile

import common
from common import CASES, CHART, ROOT, check, find, flags, keys, merged, nested, program_commands, render

diptych = sys.argv[1]

# ---- what is made from values.yaml is fresh ----
for tool in ("chart.py", "dashboards.py"):
    made = common.run("/usr/bin/python3", ROOT / "tools" / "helm" / tool, "--check")
    check(made.returncode == 0, f"{made.stdout}{made.stderr}")
version = re.search(r"^project\(diptych VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.M).group(1)
chart = common.yaml.safe_load((CHART / "Chart.yaml").read_text())
check(chart["appVersion"] == version, f"Chart.yaml: appVersion {chart['appVersion']}, and the program is {version}")
for case in CASES:
    check(f"`{case}-values.yaml`" in (CHART / "README.md").read_text(), f"the chart's README does not speak of ci/{case}-values.yaml")


# ---- options: what the chart sets is known, what an operator may want is there ----
def options_of(*command):
    said = common.run(diptych, "help", *command)
    if said.returncode:
        said = common.run(diptych, *command, "--help")
    check(said.returncode == 0, f"diptych help {' '.join(command)}: {said.stderr}")
    return set(re.findall(r"^ +(?:-[A-Za-z0-9], +)?(--[a-z0-9-]+)", said.stdout, re.M))


table = {}  # --name: (environment name, the words of range and default)
for line in common.run(diptych, "options", "--markdown").stdout.splitlines():
    match = re.match(r"^\| `(--[a-z0-9-]+)[^`]*`[^|]*\| `?([A-Z_0-9]*)`? \|.*\| ([^|]*) \|$", line)
    if match:
        table[match.group(1)] = (match.group(2), match.group(3))
check(len(table) > 60, f"the table of options has {len(table)} rows")
known = {command: options_of(*command.split()) for command in ("coordinator", "worker", "generate", "model verify")}
variables = {environment for environment, _ in table.values()}
for case in [None] + CASES:
    for name, args, env in program_commands(render(case)):
        command = "model verify" if args[0] == "model" else args[0]
        check(command in known, f"{case}: {name}: diptych {command}?")
        for flag, value in flags(args).items():
            check(flag in known[command], f"{case}: {name}: diptych {command} knows no {flag}")
            bounds = re.match(r"(\d+) to (\d+)\b", table.get(flag, ("", ""))[1])
            if bounds and value is not None and re.fullmatch(r"\d+", value):
                check(int(bounds.group(1)) <= int(value) <= int(bounds.group(2)), f"{case}: {name}: {flag}={value}: {bounds.group(0)}")
        for variable in env:
            check(not variable["name"].startswith("DIPTYCH_") or variable["name"] in variables, f"{case}: {name}: {variable['name']} is no option")

annotated = {}
for key in keys():
    for option in key["marks"].get("option", []) + key["marks"].get("serves", []):
        check(option in table, f"{'.'.join(key['path'])}: the program knows no {option}")
        annotated.setdefault(option, []).append(key)
for option in sorted((known["coordinator"] | known["worker"]) - {"--help", "--version"}):
    check(option in annotated, f"{option} cannot be set from values.yaml")

# Defaults are the program's; where they are not, somebody meant it.
MEANT = {"backend", "gpu.plugin", "log.format", "clusterName", "tls.name", "coordinator.drainSeconds", "ar.drainSeconds", "diffusion.drainSeconds",
         "ar.threads", "diffusion.threads"}
for option, of in annotated.items():
    default = re.search(r"default: (.*)$", table.get(option, ("", ""))[1])
    for key in of:
        name = ".".join(key["path"])
        if option in key["marks"].get("option", []) and name not in MEANT:
            check(default and default.group(1).split("; ")[0] == str(key["default"]), f"{name} is {key['default']}, {option}: {table.get(option)}")

# Each key that is an option arrives at the program, under that option, as it was given.
given, expected = {}, []
for key in keys():
    for option in key["marks"].get("option", []):
        bounds = re.match(r"(\d+) to (\d+)\b", table.get(option, ("", ""))[1])
        if bounds and isinstance(key["default"], int):
            value = int(bounds.group(1)) + 1 if key["default"] == int(bounds.group(1)) else int(bounds.group(1))
        elif "enum" in key["marks"]:
            value = next(word for word in key["marks"]["enum"] if word != key["default"])
        else:
            value = "other.name"
        given = merged(given, nested(key["path"], value))
        if key["path"] != ["backend"]:
            expected.append((key["path"], option, str(value)))
given["backend"] = "cuda"  # GPUs have options of their own
objects = render("keda", values=given)
told = {pool: flags(find(objects, kind, pool)["spec"]["template"]["spec"]["containers"][0]["args"])
        for pool, kind in (("coordinator", "Deployment"), ("ar", "StatefulSet"), ("diffusion", "Deployment"))}
for path, option, value in expected:
    if path[0] in told and option != "--ar-tp":
        where = [path[0]]
    else:  # everybody who knows it
        where = [pool for pool in told if option in known["coordinator" if pool == "coordinator" else "worker"]]
    for pool in where:
        check(told[pool].get(option) == value, f"{'.'.join(path)}={value} arrives at {pool} as {option}={told[pool].get(option)}")
    check(where, f"{'.'.join(path)}: nobody is told {option}")
check(len(expected) > 25, f"only {len(expected)} keys are options")

# ---- refused, in words ----
REFUSED = [
    # by the schema: what is misspelt, out of bounds or of the wrong kind
    ({"replicas": 3}, r"additional properties 'replicas' not allowed"),
    ({"coordinator": {"replica": 3}}, r"at '/coordinator': additional properties 'replica' not allowed"),
    ({"diffusion": {"autoscaling": {"enabled": True}}}, r"at '/diffusion/autoscaling': additional properties 'enabled' not allowed"),
    ({"backend": "gpu"}, r"at '/backend': value must be one of 'cuda', 'cpu'"),
    ({"coordinator": {"replicas": 0}}, r"at '/coordinator/replicas': minimum: got 0, want 1"),
    ({"coordinator": {"replicas": "two"}}, r"at '/coordinator/replicas': got string, want integer"),
    ({"ar": {"tensorParallel": 65}}, r"at '/ar/tensorParallel': maximum: got 65, want 64"),
    ({"ar": {"exitMarginSeconds": 5}}, r"at '/ar/exitMarginSeconds': minimum: got 5, want 18"),
    ({"coordinator": {"exitMarginSeconds": 5}}, r"at '/coordinator/exitMarginSeconds': minimum: got 5, want 10"),
    ({"limits": {"queueMax": 0}}, r"at '/limits/queueMax': minimum: got 0, want 1"),
    ({"limits": {"attempts": 17}}, r"at '/limits/attempts': maximum: got 17, want 16"),
    ({"image": {"digest": "sha256:abc"}}, r"at '/image/digest': 'sha256:abc' does not match pattern"),
    ({"model": {"source": "hub"}}, r"at '/model/source': value must be one of 'demo', 'pvc', 'image', 'hostPath', 'init'"),
    ({"model": {"path": "/etc"}}, r"at '/model/path': '/etc' does not match pattern"),
    ({"etcd": {"endpoints": ["etcd:2379"]}}, r"at '/etcd/endpoints/0': 'etcd:2379' does not match pattern '\^https\?://'"),
    ({"etcd": {"endpoints": "https://etcd:2379"}}, r"at '/etcd/endpoints': got string, want array"),
    ({"tls": {"mode": "on"}}, r"at '/tls/mode': value must be one of"),
    ({"network": {"ports": {"http": 80}}}, r"at '/network/ports/http': minimum: got 80, want 1,024"),
    ({"ar": {"sharedMemory": "1 GB"}}, r"at '/ar/sharedMemory': '1 GB' does not match pattern"),
    ({"log": {"level": "trace"}}, r"at '/log/level': value must be one of 'error', 'warning', 'info', 'debug'"),
    ({"test": {"sha256": "x"}}, r"at '/test/sha256': 'x' does not match pattern"),
    # by the templates: what is well formed and cannot work together
    ({"etcd": {"endpoints": ["http://e:2379"], "devServer": {"enabled": True}}}, r"etcd\.endpoints names your etcd, so the development etcd must not run beside it"),
    ({"etcd": {"devServer": {"enabled": False}}}, r"coordinator\.replicas is 2, and without etcd nobody can choose the leader"),
    ({"etcd": {"endpoints": ["http://e:2379", "https://f:2379"], "tls": {"existingSecret": "s"}}}, r"mixes http and https"),
    ({"etcd": {"endpoints": ["http://e:2379"], "tls": {"existingSecret": "s"}}}, r"etcd\.tls\.existingSecret is set, but etcd\.endpoints are http"),
    ({"etcd": {"endpoints": ["https://e:2379"]}}, r"etcd\.endpoints are https, so etcd\.tls\.existingSecret must name a secret"),
    ({"etcd": {"auth": {"existingSecret": "s"}}}, r"the development etcd knows no users"),
    ({"model": {"source": "pvc"}}, r"model\.pvc\.claimName must name the claim"),
    ({"model": {"source": "image"}}, r"model\.image\.reference must name the OCI image"),
    ({"model": {"source": "hostPath"}}, r"model\.hostPath\.path must name the folder"),
    ({"model": {"source": "init"}}, r"model\.init\.image must name the image"),
    ({"model": {"source": "init", "init": {"image": "fetch:1"}}}, r"what a step fetches must be known, so set model\.digest"),
    ({"model": {"name": "other"}}, r"model\.source is demo, which lies in the image"),
    ({"tls": {"mode": "existingSecret"}}, r"tls\.existingSecret\.coordinator must name a secret"),
    ({"tls": {"mode": "existingSecret", "existingSecret": {"coordinator": "c", "ar": "a"}}}, r"tls\.existingSecret\.diffusion must name a secret"),
    ({"tls": {"mode": "existingSecret", "existingSecret": {"coordinator": "c", "ar": "a", "diffusion": "d"}}, "ar": {"autoscaling": {"mode": "keda"}}},
     r"KEDA needs a certificate to show"),
    ({"auth": {"workerToken": {"existingSecret": "s"}}}, r"without a file of tokens nobody asks for one"),
    ({"coordinator": {"pdb": {"minAvailable": 2}}}, r"coordinator\.pdb\.minAvailable 2 of 2 replicas would block every node drain"),
    ({"coordinator": {"pdb": {"minAvailable": "51%"}}}, r"coordinator\.pdb\.minAvailable 51% of 2 replicas would block every node drain"),
    ({"ar": {"pdb": {"maxUnavailable": 0}}}, r"ar\.pdb\.maxUnavailable 0 would block every node drain"),
    ({"diffusion": {"pdb": {"maxUnavailable": "0%"}}}, r"diffusion\.pdb\.maxUnavailable 0% would block every node drain"),
    ({"ar": {"multiNode": {"enabled": True}}}, r"ar\.tensorParallel must be 2 or more"),
    ({"diffusion": {"autoscaling": {"mode": "hpa", "minReplicas": 0}}}, r"an HPA cannot wake up from none"),
    ({"diffusion": {"autoscaling": {"mode": "keda", "minReplicas": 0}}}, r"set limits\.holdSeconds to how long they may wait"),
    ({"diffusion": {"autoscaling": {"mode": "keda", "minReplicas": 9}}}, r"diffusion\.autoscaling\.maxReplicas is 8, less than minReplicas 9"),
    ({"network": {"ports": {"http": 50051}}}, r"network\.ports\.http 50051 is also a port of gRPC"),
    ({"network": {"ports": {"http": 50053}}, "ar": {"tensorParallel": 2}}, r"network\.ports\.http 50053 is also a port of gRPC"),
]
for values, words in REFUSED:
    made = common.helm("template", values=values)
    said = " ".join(made.stderr.split())
    check(made.returncode != 0, f"{values} was taken")
    check(re.search(words, said), f"{values} is refused in other words: {said}")
    check("nil pointer" not in said, f"{values}: the words are those of the template engine: {said}")

# Neighbours of what is refused are taken.
TAKEN = [
    {"coordinator": {"pdb": {"minAvailable": "50%"}}}, {"coordinator": {"replicas": 1}, "etcd": {"devServer": {"enabled": False}}},
    {"coordinator": {"replicas": 1, "pdb": {"minAvailable": 1}}}, {"tls": {"mode": False}}, {"tls": {"mode": "off"}},
    {"diffusion": {"pdb": {"maxUnavailable": "1%"}}}, {"network": {"ports": {"http": 50053}}}, {"global": {"anything": 1}},
    {"limits": {"queueMax": 1048576, "imagesMax": 4194304}},
]
for values in TAKEN:
    made = common.helm("template", values=values)
    check(made.returncode == 0, f"{values} was refused: {made.stderr}")
    check("e+06" not in made.stdout, f"{values}: a number in scientific notation")

# The picture of helm test is the one that this program draws.
pod = find(render("cpu-only"), "Pod", "test")
told = flags(pod["spec"]["containers"][0]["args"])
with tempfile.TemporaryDirectory() as folder:
    drawn = common.run(diptych, "generate", "--model", ROOT / "models" / "demo", "--seed", told["--seed"], "--json",
                       "--output", f"{folder}/drawn.png", pod["spec"]["containers"][0]["args"][-1])
sha256 = re.search(r'"image_sha256": "([0-9a-f]{64})"', drawn.stdout)
check(sha256 and told["--expect"] == sha256.group(1), f"helm test expects {told['--expect']}, and this program draws {sha256 and sha256.group(1)}")
for case in ("minimal", "restricted"):
    pod = find(render(case), "Pod", "test")["spec"]
    check("--expect" not in flags(pod["initContainers"][0]["args"]) and flags(pod["containers"][0]["args"])["--expect"] == "/drawn/first.png",
          f"{case}: helm test does not compare its two pictures")
common.finish("values")
