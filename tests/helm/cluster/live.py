#!/usr/bin/env python3
# tests/helm/cluster/live.py - what must hold between the objects of one release on a live API server.
#
# Reads the List that `kubectl get KINDS -o json` printed (standard input). Only what a rendered manifest cannot show is
# asked: what the server defaulted, what the controllers made of it, and whether the objects find each other. kwok runs no
# kubelet, so what a kubelet would stumble over (a missing secret, a port without a name) is looked up here.
# The pods of hooks, as the server would make them, come from the file that is named (the list that a dry run printed).
# Prints a line for each rule with the number of objects it met; exit status 1 when one is broken.
import collections
import json
import sys

objects = collections.defaultdict(dict)
for item in json.load(sys.stdin)["items"]:
    objects[item["kind"]][item["metadata"]["name"]] = item

hooks = {}
if len(sys.argv) > 1:
    with open(sys.argv[1], encoding="utf-8") as file:
        found = json.load(file)
    for item in found.get("items", [found]):
        if item["kind"] == "Pod":
            hooks[item["metadata"]["name"]] = item

met = collections.Counter()
broken = []


def rule(name, holds, said):
    """One object met the rule; `said` explains it when it does not hold."""
    met[name] += 1
    if not holds:
        broken.append(f"{name}: {said}")


def names(kind):
    return sorted(objects[kind])


def selects(selector, labels):
    """Whether a LabelSelector (None: nothing, {}: everything) matches."""
    if selector is None:
        return False
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for want in selector.get("matchExpressions", []):
        found = labels.get(want["key"])
        holds = {
            "In": found in want.get("values", []),
            "NotIn": found not in want.get("values", []),
            "Exists": found is not None,
            "DoesNotExist": found is None,
        }[want["operator"]]
        if not holds:
            return False
    return True


def labels(item):
    return item["metadata"].get("labels", {})


def running():
    """Pods of long-running workloads, not of Jobs and not on their way out."""
    for name in names("Pod"):
        pod = objects["Pod"][name]
        owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", [])}
        if "Job" not in owners and "deletionTimestamp" not in pod["metadata"]:
            yield name, pod


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def asleep(selector):
    """Whether a workload that is scaled to nothing would match: then nothing behind a selector is right."""
    for kind in ("Deployment", "StatefulSet"):
        for item in objects[kind].values():
            if item["spec"]["replicas"] == 0 and selects(selector, item["spec"]["template"]["metadata"].get("labels", {})):
                return True
    return False


def conditions(item):
    return {one["type"]: one["status"] for one in item.get("status", {}).get("conditions", [])}


# ---- workloads ----
for kind in ("Deployment", "StatefulSet"):
    for name in names(kind):
        status, spec = objects[kind][name].get("status", {}), objects[kind][name]["spec"]
        wanted = spec["replicas"]
        generation = objects[kind][name]["metadata"]["generation"]
        found = (status.get("readyReplicas", 0), status.get("updatedReplicas", 0))
        rule("every replica is ready and current",
             found == (wanted, wanted) and status.get("observedGeneration") == generation,
             f"{kind} {name}: {wanted} wanted, status {status}")
for name in names("LeaderWorkerSet"):
    item = objects["LeaderWorkerSet"][name]
    rule("every replica is ready and current",
         item.get("status", {}).get("readyReplicas", 0) == item["spec"]["replicas"],
         f"LeaderWorkerSet {name}: {item['spec']['replicas']} wanted, status {item.get('status')}")
    size = item["spec"]["leaderWorkerTemplate"]["size"]
    mine = [pod for _, pod in running() if labels(pod).get("leaderworkerset.sigs.k8s.io/name") == name]
    rule("a group across nodes has all its pods", len(mine) == size * item["spec"]["replicas"],
         f"LeaderWorkerSet {name}: {len(mine)} pods for {item['spec']['replicas']} groups of {size}")

for name, pod in running():
    rule("every pod is ready", conditions(pod).get("Ready") == "True", f"{name}: {pod.get('status')}")
    spec = pod["spec"]
    tokens = [v["name"] for v in spec.get("volumes", []) if any("serviceAccountToken" in s for s in v.get("projected", {}).get("sources", []))]
    wants_token = spec.get("automountServiceAccountToken", objects["ServiceAccount"].get(
        spec["serviceAccountName"], {}).get("automountServiceAccountToken", True))
    rule("a token is mounted only where one is asked for", bool(tokens) == bool(wants_token),
         f"{name}: token volumes {tokens}, automount {wants_token}")
    rule("no pod runs under the default service account", spec["serviceAccountName"] != "default", name)
    gpus = [int(c.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0)) for c in containers(pod)]
    on_gpu = spec.get("nodeName", "").startswith("gpu-")
    rule("GPUs and the node agree", not any(gpus) or on_gpu, f"{name}: {gpus} on {spec.get('nodeName')}")

# ---- what a kubelet would stumble over ----
def keys_of(kind, name):
    item = objects[kind].get(name)
    return None if item is None else set(item.get("data", {})) | set(item.get("binaryData", {}))


def wants(pod, kind, name, keys, optional):
    found = keys_of(kind, name)
    holds = optional or (found is not None and set(keys) <= found)
    rule("what a pod mounts and reads is there", holds,
         f"{pod}: {kind} {name} with {sorted(keys)}, found {'nothing' if found is None else sorted(found)}")


for name, pod in [*running(), *hooks.items()]:
    for volume in pod["spec"].get("volumes", []):
        sources = [volume] + volume.get("projected", {}).get("sources", [])
        for source in sources:
            for field, kind, key in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
                if field in source:
                    found = source[field]
                    wants(name, kind, found.get(key) or found.get("name"), {i["key"] for i in found.get("items", [])},
                          found.get("optional", False))
        if "persistentVolumeClaim" in volume:
            claim = objects["PersistentVolumeClaim"].get(volume["persistentVolumeClaim"]["claimName"], {})
            rule("claims are bound", claim.get("status", {}).get("phase") == "Bound", f"{name}: {volume}: {claim.get('status')}")
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    for container in containers(pod):
        for mount in container.get("volumeMounts", []):
            rule("every mount has its volume", mount["name"] in volumes, f"{name}: {mount}")
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in source:
                    wants(name, kind, source[field]["name"], {source[field]["key"]}, source[field].get("optional", False))
        for source in container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    wants(name, kind, source[field]["name"], set(), source[field].get("optional", False))
        ports = {p.get("name") for p in container.get("ports", [])} | {p["containerPort"] for p in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for action in ("httpGet", "tcpSocket", "grpc"):
                port = container.get(probe, {}).get(action, {}).get("port")
                if port is not None:
                    rule("every probe knocks at a port of its container", port in ports, f"{name}: {probe} at {port} of {ports}")

# ---- services find pods ----
slices = collections.defaultdict(list)
for name in names("EndpointSlice"):
    item = objects["EndpointSlice"][name]
    slices[labels(item).get("kubernetes.io/service-name")].append(item)
for name in names("Service"):
    service = objects["Service"][name]
    selector = service["spec"].get("selector")
    if not selector or asleep({"matchLabels": selector}):
        continue
    behind = [pod for pod, item in running() if selects({"matchLabels": selector}, labels(item))]
    endpoints = [e for s in slices[name] for e in s.get("endpoints") or [] if e.get("conditions", {}).get("ready", True)]
    if not behind:
        rule("every service has pods behind it", False, f"{name}: nothing matches {selector}")
        continue
    rule("every service has pods behind it", len({e["targetRef"]["name"] for e in endpoints}) == len(behind),
         f"{name}: {len(endpoints)} endpoints for {behind}")
    for port in service["spec"].get("ports", []):
        reached = [p for s in slices[name] for p in s.get("ports") or [] if p.get("name", "") == port.get("name", "")]
        rule("every port of a service is one of the pods'", bool(reached), f"{name}: {port}")

# ---- disruption budgets ----
covered = collections.Counter()
for name in names("PodDisruptionBudget"):
    budget = objects["PodDisruptionBudget"][name]
    status = budget.get("status", {})
    for pod, item in running():
        covered[pod] += selects(budget["spec"].get("selector"), labels(item))
    if asleep(budget["spec"].get("selector")):
        continue
    rule("a budget has pods and lets one of them go",
         status.get("expectedPods", 0) >= 1 and status.get("disruptionsAllowed", 0) >= 1 and
         conditions(budget).get("DisruptionAllowed") == "True" and
         status.get("observedGeneration") == budget["metadata"]["generation"],
         f"{name}: {status}")
for pod, count in covered.items():
    rule("no pod is under two budgets", count <= 1, f"{pod}: {count}")  # with two, every eviction is refused

# ---- network policies ----
for name in names("NetworkPolicy"):
    policy = objects["NetworkPolicy"][name]
    chosen = [pod for pod, item in running() if selects(policy["spec"]["podSelector"], labels(item))]
    by_hooks = any(selects(policy["spec"]["podSelector"], labels(item)) for item in hooks.values())
    rule("every network policy chooses pods", bool(chosen) or by_hooks or asleep(policy["spec"]["podSelector"]), f"{name}: {policy['spec']['podSelector']}")
    for pod in chosen:
        known = {p.get("name") for c in containers(objects["Pod"][pod]) for p in c.get("ports", [])}
        for entry in policy["spec"].get("ingress") or []:
            for port in entry.get("ports", []):
                if isinstance(port.get("port"), str):
                    rule("every port let in has that name in the pod", port["port"] in known, f"{name}, {pod}: {port}")
if objects["NetworkPolicy"]:
    for pod, item in [*running(), *hooks.items()]:
        kinds = {t for p in objects["NetworkPolicy"].values() if selects(p["spec"]["podSelector"], labels(item))
                 for t in p["spec"].get("policyTypes", [])}
        rule("every pod is closed both ways by a policy", kinds >= {"Ingress", "Egress"}, f"{pod}: {kinds}")

# ---- what points at a workload by name or by label ----
for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
    for name in names(kind):
        target = objects[kind][name]["spec"]["scaleTargetRef"]
        found = objects[target.get("kind", "Deployment")].get(target["name"])
        rule("every autoscaler has its workload", found is not None, f"{kind} {name}: {target}")
for name in names("ServiceMonitor"):
    monitor = objects["ServiceMonitor"][name]
    ports = {p.get("name") for s in objects["Service"].values() if selects(monitor["spec"]["selector"], labels(s)) for p in s["spec"]["ports"]}
    for endpoint in monitor["spec"]["endpoints"]:
        rule("every monitor finds a service and its port", endpoint.get("port") in ports, f"{name}: {endpoint.get('port')} of {ports}")

for name, count in met.items():
    print(f"  {count:4d}  {name}")
for line in broken:
    print(f"BROKEN {line}")
print(f"  {sum(met.values())} checks, {len(broken)} broken")
sys.exit(1 if broken or not met["every replica is ready and current"] else 0)
