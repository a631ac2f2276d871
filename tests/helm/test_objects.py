#!/usr/bin/env python3
# tests/helm/test_objects.py - what must hold of the objects that the chart makes: probes, sums, restrictions, budgets, who may
# reach whom, and what an upgrade may not touch.
import common
from common import CASES, FULLNAME, check, containers, find, flags, pod_specs, program_commands, render

rendered = {case: render(case) for case in CASES} | {"default": render(None)}
DAEMONS = ("coordinator", "ar", "diffusion")


def component(labels):
    return labels["app.kubernetes.io/component"]


def every_pod():
    for case, objects in rendered.items():
        for name, labels, spec in pod_specs(objects):
            yield f"{case}: {name}", labels, spec


def daemons():
    """(name, component, pod spec, the daemon's container)"""
    for name, labels, spec in every_pod():
        if component(labels) in DAEMONS:
            yield name, component(labels), spec, spec["containers"][0]


# ---- probes: plain HTTP on a port of their own ----
def check_probes(name, spec, container, values):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    args = flags(container["args"])
    check(args["--http"].rsplit(":", 1)[1] == str(ports["http"]), f"{name}: probes ask another port than --http")
    check(args["--http"].rsplit(":", 1)[1] != args["--listen"].rsplit(":", 1)[1], f"{name}: probes share the port of gRPC")
    for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        got = container[probe]["httpGet"]
        check(got["path"] == path and got["port"] == "http" and "scheme" not in got, f"{name}: {probe} is {got}")
    startup = container["startupProbe"]
    check(startup["failureThreshold"] * startup["periodSeconds"] >= 600, f"{name}: a start may take less than model.loadTimeoutSeconds")
    live, ready = container["livenessProbe"], container["readinessProbe"]
    check(live["failureThreshold"] * live["periodSeconds"] > ready["failureThreshold"] * ready["periodSeconds"],
          f"{name}: it is started anew before it is taken out of service")


# ---- the end of a pod: the parts of its grace add up ----
def check_grace(name, which, spec, container):
    grace, total = int(flags(container["args"])["--grace"]), spec["terminationGracePeriodSeconds"]
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    ranks = int(flags(container["args"]).get("--ranks", 1))
    last_words = 10 if which == "coordinator" else 15 + (3 if ranks > 1 else 0)
    check(sleep + grace + last_words <= total, f"{name}: {sleep} + {grace} + {last_words} s do not fit into {total} s")
    check((sleep > 0) == (which == "coordinator"), f"{name}: preStop sleep is {sleep}: it is for what stands behind a service")
    check("exec" not in container.get("lifecycle", {}).get("preStop", {}), f"{name}: the image has no shell for preStop")


for name, which, spec, container in daemons():
    check_probes(name, spec, container, None)
    check_grace(name, which, spec, container)

# The parts are values, and the sum is computed: whatever they are, they add up.
odd = render("cpu-only", values={"coordinator": {"preStopSleepSeconds": 31, "drainSeconds": 301, "exitMarginSeconds": 11},
                                 "ar": {"drainSeconds": 7, "exitMarginSeconds": 18}, "model": {"loadTimeoutSeconds": 601}})
front = find(odd, "Deployment", "coordinator")["spec"]["template"]["spec"]
check(front["terminationGracePeriodSeconds"] == 31 + 301 + 11, "the coordinator's grace is not the sum of its parts")
check(front["containers"][0]["startupProbe"]["failureThreshold"] == 121, "601 s in steps of 5 s are 121 failures")
check(find(odd, "StatefulSet", "ar")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 25, "7 + 18 = 25")

# ---- the restricted profile, rule by rule ----
ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image"}
for name, labels, spec in every_pod():
    pod = spec["securityContext"]
    check(pod["runAsNonRoot"] is True and pod["runAsUser"] > 0 and pod["runAsGroup"] > 0, f"{name}: may be root")
    check(pod["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: no seccomp profile")
    check(not any(spec.get(word) for word in ("hostNetwork", "hostPID", "hostIPC")), f"{name}: shares the host's namespaces")
    check(spec.get("automountServiceAccountToken") is False, f"{name}: gets a token for the Kubernetes API")
    check(spec.get("enableServiceLinks") is False, f"{name}: gets variables of every service, named as options are")
    for volume in spec.get("volumes", []):
        kind = next(word for word in volume if word != "name")
        check(kind in ALLOWED_VOLUMES or (kind == "hostPath" and name.startswith("tls:")), f"{name}: volume {kind}")
    for container in containers(spec):
        context = container["securityContext"]
        check(context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True and
              context["capabilities"] == {"drop": ["ALL"]} and context["runAsNonRoot"] is True and not context.get("privileged"),
              f"{name}/{container['name']}: {context}")
        check(all("hostPort" not in port for port in container.get("ports", [])), f"{name}: takes a port of the host")
        check("memory" in container["resources"]["limits"], f"{name}/{container['name']}: no memory limit")
        image = container["image"]
        check("@sha256:" in image or (":" in image.rsplit("/", 1)[-1] and not image.endswith(":latest")), f"{name}: image {image}")
restricted = [container["image"] for _, _, spec in pod_specs(rendered["restricted"]) for container in containers(spec)]
check(all("@sha256:" in image for image in restricted), f"restricted: not pinned: {restricted}")

# ---- budgets: no drain is ever blocked by them ----
for case, objects in rendered.items():
    for budget in (one for one in objects if one["kind"] == "PodDisruptionBudget"):
        name, spec = f"{case}: {budget['metadata']['name']}", budget["spec"]
        check(spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow", f"{name}: a pod that does not work blocks a drain")
        if "minAvailable" in spec:
            replicas = find(objects, "Deployment", "coordinator")["spec"]["replicas"]
            check(1 <= spec["minAvailable"] < replicas, f"{name}: minAvailable {spec['minAvailable']} of {replicas}")
        else:
            check(spec["maxUnavailable"] in (1, "25%"), f"{name}: maxUnavailable {spec['maxUnavailable']}")
one = {"coordinator": {"replicas": 1}}
check(find(render("minimal", values=one), "PodDisruptionBudget", "coordinator") is None, "one coordinator has a budget that blocks every drain")
check(find(rendered["minimal"], "PodDisruptionBudget", "coordinator") is not None, "two coordinators have no budget")

# ---- selectors: each finds its pods, and an upgrade does not change them ----
SELECTOR_KEYS = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
for case, objects in rendered.items():
    pods = [labels for _, labels, _ in pod_specs(objects)]
    for one in objects:
        name, selector = f"{case}: {one['kind']}/{one['metadata']['name']}", None
        if one["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]["matchLabels"]
        elif one["kind"] == "Service":
            selector = one["spec"]["selector"]
        elif one["kind"] == "NetworkPolicy":
            selector = one["spec"]["podSelector"]["matchLabels"]
        if selector is None:
            continue
        check(set(selector) == SELECTOR_KEYS, f"{name}: selects by {sorted(selector)}")
        found = {component(labels) for labels in pods if selector.items() <= labels.items()}
        check(len(found) == 1, f"{name}: finds {found or 'nothing'}")


def immutable(objects):
    """What Kubernetes refuses to change in place."""
    return {(one["kind"], one["metadata"]["name"]): (one["spec"]["selector"], one["spec"].get("serviceName"),
                                                     one["spec"].get("podManagementPolicy"), one["spec"].get("volumeClaimTemplates"))
            for one in objects if one["kind"] in ("Deployment", "StatefulSet")}


everything = {"image": {"tag": "9.9.9"}, "commonLabels": {"new": "label"}, "backend": "cpu", "ar": {"groups": 3, "tensorParallel": 4},
              "coordinator": {"replicas": 5, "podLabels": {"other": "label"}}, "diffusion": {"replicas": 9}, "clusterName": "other"}
for case in CASES:
    if case != "lws":
        check(immutable(rendered[case]) == immutable(render(case, values=everything)), f"{case}: an upgrade changes what cannot be changed")

# ---- services and addresses ----
for case, objects in rendered.items():
    door = find(objects, "Service", "")
    check(door["spec"]["ports"][0]["port"] == 50051 and door["spec"]["type"] == "ClusterIP", f"{case}: the front door is {door['spec']}")
    for peers in ("coordinator-peers", "ar", "diffusion"):
        spec = find(objects, "Service", peers)["spec"]
        check(spec["clusterIP"] == "None" and spec["publishNotReadyAddresses"] is True, f"{case}: {peers} is no headless service of all pods")
    if case != "lws":
        stateful = find(objects, "StatefulSet", "ar")["spec"]
        check(stateful["serviceName"] == f"{FULLNAME}-ar" and stateful["podManagementPolicy"] == "Parallel", f"{case}: ar: {stateful['serviceName']}")

# ---- secrets: files that only the pod's group may read, and every file that a flag names is mounted ----
for name, labels, spec in every_pod():
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for volume in volumes.values():
        check(volume.get("secret", {}).get("defaultMode", 0o440) == 0o440, f"{name}: everybody may read {volume}")
    for container in containers(spec):
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        check(all(mount in volumes for mount in mounts.values()), f"{name}/{container['name']}: mounts of no volume: {mounts}")
        for flag, value in flags(container.get("args", [])).items():
            if value and value.startswith(("/etc/", "/models/", "/drawn/", "/data/")):
                check(any(value == path or value.startswith(f"{path}/") for path in mounts), f"{name}/{container['name']}: {flag}={value} is not mounted")
told = {container["name"]: flags(container["args"]) for _, _, spec in pod_specs(rendered["tls"]) for container in containers(spec) if "args" in container}
check(told["worker"]["--token-file"] == "/etc/diptych/token/token" == told["second"]["--token-file"], "tls: no tokens to show")
told = flags(find(rendered["external-etcd"], "StatefulSet", "ar")["spec"]["template"]["spec"]["containers"][0]["args"])
check(told["--etcd-password-file"] == "/etc/diptych/etcd-user/password", f"external-etcd: {told}")

# ---- what the processes are told ----
for case, objects in rendered.items():
    for name, args, env in program_commands(objects):
        told, name = flags(args), f"{case}: {name}"
        variables = {one["name"] for one in env}
        check(all(f"$({word})" not in arg or word in variables for arg in args for word in ("POD_NAME", "POD_IP", "GROUP")),
              f"{name}: refers to a variable that it does not have")
        check(not any(word in told for word in ("--token", "--etcd-password")), f"{name}: a secret among the arguments")
        if args[0] not in ("coordinator", "worker"):
            continue
        check(told["--advertise"].startswith("$(POD_IP):") and told["--name"] == "$(POD_NAME)", f"{name}: {told}")
        check("--etcd" in told, f"{name}: no etcd")
        has_tls = "--tls-cert" in told
        check(has_tls == (case not in ("minimal", "cpu-only")), f"{name}: TLS is {has_tls}")
        check(not has_tls or {"--tls-key", "--tls-ca", "--tls-name"} <= set(told), f"{name}: half of TLS: {told}")
        check(("--insecure" in told) == (not has_tls), f"{name}: plaintext without the word for it")

told = {which: flags(container["args"]) for name, which, _, container in daemons() if name.startswith("restricted")}
check(told["ar"]["--ranks"] == "2" == told["coordinator"]["--ar-tp"], f"two ranks: {told}")
check(told["ar"]["--model"] == told["diffusion"]["--model"] == told["coordinator"]["--model"] == "/models/blip3o-next", f"{told}")
check(told["coordinator"]["--cluster"] == "studio.pictures-diptych", f"cluster {told['coordinator']['--cluster']}")
check(told["coordinator"]["--tokens"] == "/etc/diptych/tokens/tokens", f"tokens {told['coordinator'].get('--tokens')}")

component_labels = {name: labels for name, labels, _ in every_pod()}
# ---- GPUs: one a rank, and the taints of their nodes ----
for name, which, spec, container in daemons():
    case = name.split(":")[0]
    gpus = container["resources"]["limits"].get("nvidia.com/gpu", 0)
    ranks = int(flags(container["args"]).get("--ranks", 1))
    wanted = 0 if which == "coordinator" or case == "cpu-only" else ranks
    check(gpus == wanted and container["resources"]["requests"].get("nvidia.com/gpu", 0) == wanted, f"{name}: {gpus} GPUs, not {wanted}")
    given = {part: {"memory", "nvidia.com/gpu"} if part == "limits" else {"cpu", "memory", "nvidia.com/gpu"} for part in ("limits", "requests")}
    check(all(set(container["resources"][part]) <= words for part, words in given.items()), f"{name}: resources {container['resources']}")
    check(container["resources"]["requests"]["memory"] != container["resources"]["limits"]["memory"], f"{name}: requests are the limits")
    check("helm.sh/chart" not in component_labels[name], f"{name}: a pod that ends whenever the chart's version changes")
    bears = any(one.get("key") == "nvidia.com/gpu" for one in spec.get("tolerations", []))
    check(bears == (wanted > 0), f"{name}: tolerations {spec.get('tolerations')}")
    check(container["image"].endswith("-cuda") == (wanted > 0) or case == "restricted", f"{name}: image {container['image']}")
    shm = [volume for volume in spec["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    check((len(shm) == 1 and any(mount["mountPath"] == "/dev/shm" for mount in container["volumeMounts"])) == (which == "ar"), f"{name}: shared memory {shm}")

# ---- a model from everywhere ----
steps = {case: [step["name"] for step in find(objects, "Deployment", "diffusion")["spec"]["template"]["spec"].get("initContainers", [])]
         for case, objects in rendered.items()}
check(steps["minimal"] == [] and steps["keda"] == [], f"steps before a start that nobody asked for: {steps}")
check(steps["restricted"] == ["model-verify"] and steps["tls"] == ["model-verify"] and steps["lws"] == ["model-fill", "model-verify"], f"{steps}")
verify = next(args for name, args, _ in program_commands(rendered["restricted"]) if name.endswith("diffusion/model-verify"))
check(verify[:2] == ["model", "verify"] and flags(verify) == {"--model": "/models/blip3o-next", "--digest": "sha256:" + "3" * 64}, f"verify: {verify}")
verify = next(args for name, args, _ in program_commands(rendered["lws"]) if name.endswith("diffusion/model-verify"))
check(flags(verify)["--manifest"] == "/etc/diptych/manifest/SHA256SUMS", f"verify: {verify}")
for case, kind in (("keda", "persistentVolumeClaim"), ("restricted", "image"), ("tls", "hostPath"), ("lws", "emptyDir")):
    for name, labels, spec in pod_specs(rendered[case]):
        if component(labels) not in DAEMONS:
            continue
        volume = next((volume for volume in spec["volumes"] if volume["name"] == "model"), {})
        mounts = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "model"]
        check(kind in volume and mounts and mounts[0]["readOnly"] is True, f"{case}: {name}: model {volume} {mounts}")

# ---- network policies: on, and every conversation that there is has its rule ----
def allows(rules, side, labels, port):
    for rule in rules:
        at_port = any(one["port"] <= port <= one.get("endPort", one["port"]) for one in rule["ports"] if isinstance(one["port"], int)) if "ports" in rule else True
        peers = rule.get(side)
        at_peer = peers is None or any("podSelector" in peer and "namespaceSelector" not in peer and
                                       peer["podSelector"].get("matchLabels", {}).items() <= labels.items() for peer in peers)
        if at_port and at_peer:
            return True
    return False


def labels_of(which, instance=common.RELEASE):
    return {"app.kubernetes.io/name": "diptych", "app.kubernetes.io/instance": instance, "app.kubernetes.io/component": which}


TALKS = [("ar", "coordinator", 50051), ("diffusion", "coordinator", 50051), ("coordinator", "coordinator", 50051),
         ("test", "coordinator", 50051), ("ar", "diffusion", 50052)]
SILENT = [("diffusion", "ar", 50052), ("diffusion", "diffusion", 50052), ("test", "diffusion", 50052), ("test", "ar", 50052)]
for case, objects in rendered.items():
    policies = {component(one["metadata"]["labels"]): one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    check({"coordinator", "ar", "diffusion", "test"} <= set(policies), f"{case}: policies for {sorted(policies)} alone")
    check(all(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in policies.values()), f"{case}: a policy of one direction")
    talks = TALKS + ([(which, "etcd-dev", 2379) for which in DAEMONS] if "etcd-dev" in policies else [])
    for one, other, port in talks:
        check(allows(policies[one]["egress"], "to", labels_of(other), port), f"{case}: {one} may not speak to {other}:{port}")
        check(allows(policies[other]["ingress"], "from", labels_of(one), port), f"{case}: {other}:{port} does not hear {one}")
    for one, other, port in SILENT:
        check(not allows(policies[other].get("ingress", []), "from", labels_of(one), port), f"{case}: {other}:{port} hears {one}")
    check(not allows(policies["ar"]["ingress"], "from", labels_of("ar", "stranger"), 50052), f"{case}: ranks hear another release")
    for which in DAEMONS:
        check(any(port["port"] == 53 for rule in policies[which]["egress"] for port in rule.get("ports", [])), f"{case}: {which} has no DNS")
        check(all("ports" in rule or case == "lws" for rule in policies[which]["egress"]), f"{case}: {which} may speak to anybody")
    if "etcd-dev" not in policies:
        check(all(any(port["port"] == 2379 for rule in policies[which]["egress"] for port in rule.get("ports", [])) for which in DAEMONS),
              f"{case}: etcd cannot be reached")
check(find(render("minimal", values={"networkPolicy": {"enabled": False}}), "NetworkPolicy", "ar") is None, "policies cannot be turned off")
keda = find(rendered["keda"], "NetworkPolicy", "coordinator")["spec"]["ingress"][0]["from"]
check({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in keda, "KEDA may not ask the coordinators")

# ---- certificates ----
certificates = {one["metadata"]["name"]: one["spec"] for one in rendered["external-etcd"] if one["kind"] == "Certificate"}
check(set(certificates) == {f"{FULLNAME}-{which}-tls" for which in (*DAEMONS, "client")}, f"certificates: {sorted(certificates)}")
for which in DAEMONS:
    spec = certificates[f"{FULLNAME}-{which}-tls"]
    check(f"{FULLNAME}.studio.svc" in spec["dnsNames"] and spec["issuerRef"]["name"] == "platform-ca", f"{which}: {spec}")
own = [one for one in rendered["keda"] if one["kind"] == "Issuer"]
check({one["metadata"]["name"] for one in own} == {f"{FULLNAME}-selfsigned", f"{FULLNAME}-ca"}, "no authority of our own")
check(not any(one["kind"] == "Issuer" for one in rendered["external-etcd"]), "an authority of our own beside the one that was named")
for name, which, spec, container in daemons():
    case = name.split(":")[0]
    secret = next((volume["secret"]["secretName"] for volume in spec["volumes"] if volume["name"] == "tls"), None)
    wanted = None if case in ("minimal", "cpu-only") else f"diptych-{which}-cert" if case == "tls" else f"{FULLNAME}-{which}-tls"
    check(secret == wanted, f"{name}: certificates from {secret}, not {wanted}")

# ---- the development etcd: when no other is named, and marked ----
for case, objects in rendered.items():
    dev = find(objects, "StatefulSet", "etcd-dev")
    check((dev is not None) == (case in ("minimal", "cpu-only", "tls", "default")), f"{case}: development etcd {dev is not None}")
    if dev:
        check(dev["spec"]["replicas"] == 1 and "not for production" in dev["metadata"]["annotations"]["diptych/for"], f"{case}: not marked")
        check("volumeClaimTemplates" not in dev["spec"] and "bitnami" not in dev["spec"]["template"]["spec"]["containers"][0]["image"], f"{case}: etcd")

# ---- scaling ----
for pool, kind, low in (("ar", "StatefulSet", 1), ("diffusion", "Deployment", 0)):
    scaled = find(rendered["keda"], "ScaledObject", pool)["spec"]
    check(scaled["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": kind, "name": f"{FULLNAME}-{pool}"}, f"keda: {scaled['scaleTargetRef']}")
    check("replicas" not in find(rendered["keda"], kind, pool)["spec"], f"keda: {pool}: an upgrade resets what the scaler chose")
    trigger = scaled["triggers"][0]
    check(trigger["type"] == "external" and trigger["metadata"] == {"scalerAddress": f"{FULLNAME}.studio.svc:50051", "pool": pool, "enableTLS": "true"},
          f"keda: {trigger}")
    check(trigger["authenticationRef"]["name"] == find(rendered["keda"], "TriggerAuthentication", "scaler")["metadata"]["name"], f"keda: {trigger}")
    check(scaled["minReplicaCount"] == low and scaled["fallback"]["behavior"] == "currentReplicas", f"keda: {scaled}")
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    check(behavior["scaleDown"]["stabilizationWindowSeconds"] == 300, f"keda: {behavior}")
    hpa = find(rendered["hpa"], "HorizontalPodAutoscaler", pool)["spec"]
    check(hpa["metrics"][0]["external"]["metric"]["name"] == "diptych_scale_wanted" and hpa["scaleTargetRef"]["kind"] == kind, f"hpa: {hpa}")
    check("replicas" not in find(rendered["hpa"], kind, pool)["spec"], f"hpa: {pool}: an upgrade resets what the scaler chose")
check(flags(find(rendered["keda"], "Deployment", "coordinator")["spec"]["template"]["spec"]["containers"][0]["args"])["--hold"] == "300", "keda: nothing is held")

# ---- a group over several nodes ----
group = find(rendered["lws"], "LeaderWorkerSet", "ar")
template = group["spec"]["leaderWorkerTemplate"]
told = flags(template["workerTemplate"]["spec"]["containers"][0]["args"])
check(template["size"] == 4 and template["restartPolicy"] == "RecreateGroupOnPodRestart" and group["spec"]["replicas"] == 1, f"lws: {template['size']}")
check("--ar-rank" in told and told["--group-address"] == "$(POD_IP)" and "--ranks" not in told, f"lws: {told}")
check(find(rendered["lws"], "StatefulSet", "ar") is None, "lws: a StatefulSet beside it")

# ---- spread ----
for name, which, spec, _ in daemons():
    zones = [one for one in spec["topologySpreadConstraints"] if one["topologyKey"] == "topology.kubernetes.io/zone"]
    check(zones and zones[0]["whenUnsatisfiable"] == "ScheduleAnyway", f"{name}: not spread over zones")

# ---- notes: where it is, what to type, and what to worry about ----
WORRIES = {"minimal": ["DEVELOPMENT ETCD", "TLS IS OFF", "No tokens", "demo model", "named by a tag"], "restricted": [],
           "tls": ["DEVELOPMENT ETCD", "hostPath"], "lws": ["in plaintext"], "external-etcd": ["No tokens", "taken as it lies"]}
for case, words in WORRIES.items():
    notes = common.render_notes(case)
    check(f"{FULLNAME}.studio.svc:50051" in notes and "diptych generate --server" in notes and "helm test pictures" in notes, f"{case}: notes: {notes}")
    for word in words:
        check(word in notes, f"{case}: the notes do not warn of {word}: {notes}")
    check(bool(words) == ("WARNINGS" in notes), f"{case}: warnings: {notes}")
check("One coordinator" in common.render_notes("minimal", values={"coordinator": {"replicas": 1}}), "no warning of one coordinator")
check("name those outside in networkPolicy.clients" in common.render_notes("minimal", values={"coordinator": {"service": {"type": "LoadBalancer"}}}),
      "no warning of a load balancer that leads nowhere")
check("no memory limit" in common.render_notes("minimal", values={"ar": {"resources": {"limits": None}}}), "no warning of no limits")
common.finish("objects")
