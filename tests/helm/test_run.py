#!/usr/bin/env python3
# tests/helm/test_run.py - the processes as the chart starts them: every container's own arguments, with what only a cluster
# could fill in filled in here (addresses, names of services, mounted certificates). They form a cluster over mutual TLS, answer
# their probes, pass the helm test, and end within their grace when they are told to.
#
# A pod is an address of its own on the loopback. Certificates carry the names that the chart's Certificate objects ask for, no
# more: a name that is missing there fails here.
#
# test_run.py DIPTYCH
import atexit
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import common
from common import FULLNAME, ROOT, check, find, render

diptych = pathlib.Path(sys.argv[1]).resolve()
work = pathlib.Path(tempfile.mkdtemp(prefix="diptych-run-"))
atexit.register(shutil.rmtree, work, ignore_errors=True)
PATIENCE_S = 120
VALUES = {"backend": "cpu", "ar": {"tensorParallel": 2, "threads": 1}, "diffusion": {"replicas": 1, "threads": 1}}
objects = render(None, values=VALUES)
NET = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"  # so that two runs do not meet


# ---- certificates, as cert-manager would make them ----
def openssl(*words):
    made = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"openssl {' '.join(map(str, words))}: {made.stderr}")


def new_key(path):
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def authority(folder):
    folder.mkdir()
    openssl("req", "-x509", *new_key(folder / "ca.key"), "-days", "1", "-subj", "/CN=ca", "-out", folder / "ca.crt")


def certify(certificate, ca, folder):
    """The secret of one Certificate object: its names and its usages, nothing else."""
    spec = certificate["spec"]
    folder.mkdir()
    openssl("req", "-new", *new_key(folder / "tls.key"), "-subj", f"/CN={spec['commonName']}", "-out", folder / "csr")
    usages = ",".join({"server auth": "serverAuth", "client auth": "clientAuth"}[usage] for usage in spec["usages"])
    (folder / "ext").write_text(f"subjectAltName={','.join('DNS:' + name for name in spec['dnsNames'])}\nextendedKeyUsage={usages}\n")
    openssl("x509", "-req", "-in", folder / "csr", "-CA", ca / "ca.crt", "-CAkey", ca / "ca.key", "-CAcreateserial", "-days", "1",
            "-extfile", folder / "ext", "-out", folder / "tls.crt")
    (folder / "ca.crt").write_bytes((ca / "ca.crt").read_bytes())


authority(work / "ca")
for one in objects:
    if one["kind"] == "Certificate" and not one["spec"].get("isCA"):
        certify(one, work / "ca", work / one["spec"]["secretName"])


# ---- pods ----
class Pod:
    def __init__(self, name, spec, number):
        self.name, self.spec, self.address = name, spec, f"{NET}.{number}"
        self.process, self.log = None, work / f"{name}.log"

    def filled(self, word, services):
        word = word.replace("$(POD_IP)", self.address).replace("$(POD_NAME)", self.name).replace("0.0.0.0", self.address)
        word = word.replace("127.0.0.1", self.address)  # a pod's loopback is its own
        for service, address in services.items():
            word = re.sub(rf"\b{re.escape(service)}:", f"{address}:", word)
        # All folders in one pass: what one of them became may begin like another, and this checkout may lie in /tmp.
        folders = {"/usr/share/diptych/models/demo": ROOT / "models" / "demo", **self.mounts()}
        longest_first = "|".join(map(re.escape, sorted(folders, key=len, reverse=True)))
        word = re.sub(rf"(^|=)({longest_first})(?=/|$)", lambda found: f"{found[1]}{folders[found[2]]}", word)
        return word

    def mounts(self):
        """Where each mounted path of the first container lies here."""
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        return {mount["mountPath"]: work / volumes[mount["name"]]["secret"]["secretName"] if "secret" in volumes[mount["name"]]
                else work / f"{self.name}-{mount['name']}" for mount in self.spec["containers"][0]["volumeMounts"]
                if mount["name"] in volumes}

    def words(self, container, services):
        program = container.get("command", [str(diptych)])
        program = ["etcd"] if program == ["/usr/local/bin/etcd"] else program
        return program + [self.filled(word, services) for word in container["args"]]

    def start(self, services):
        for volume in self.spec.get("volumes", []):
            if "emptyDir" in volume:
                (work / f"{self.name}-{volume['name']}").mkdir(exist_ok=True)
        self.process = subprocess.Popen(self.words(self.spec["containers"][0], services), stdout=self.log.open("w"), stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, env=common.ENVIRONMENT, cwd=work)

    def probe(self, which):
        container = self.spec["containers"][0]
        at = container[which]["httpGet"]
        port = next(port["containerPort"] for port in container["ports"] if port["name"] == at["port"])
        try:
            return urllib.request.urlopen(f"http://{self.address}:{port}{at['path']}", timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def said(self):
        return "\n".join(self.log.read_text().splitlines()[-6:])


def wait_for(condition):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def template(kind, name):
    return find(objects, kind, name)["spec"]["template"]["spec"]


etcd = Pod("etcd-dev-0", template("StatefulSet", "etcd-dev"), 1)
coordinators = [Pod(f"coordinator-{i}", template("Deployment", "coordinator"), 2 + i) for i in range(2)]
workers = [Pod("ar-0", template("StatefulSet", "ar"), 4), Pod("diffusion-0", template("Deployment", "diffusion"), 5)]
test = Pod("test", find(objects, "Pod", "test")["spec"], 6)
services = {f"{FULLNAME}-etcd-dev.studio.svc": etcd.address, f"{FULLNAME}.studio.svc": coordinators[1].address}
daemons = coordinators + workers


def check_probes(pod):
    for which in ("startupProbe", "readinessProbe", "livenessProbe"):
        wait_for(lambda: pod.process.poll() is not None or pod.probe(which) == 200)
        check(pod.probe(which) == 200, f"{pod.name}: {which}: {pod.probe(which)}: {pod.said()}")


def draw(services):
    """What the pod of helm test does: its init container, then its container."""
    for container in common.containers(test.spec):
        made = subprocess.run(test.words(container, services), capture_output=True, text=True, env=common.ENVIRONMENT, cwd=work, timeout=PATIENCE_S)
        if not check(made.returncode == 0, f"helm test: {container['name']}: {made.stdout}{made.stderr}"):
            return
    pictures = {(work / "test-drawn" / f"{name}.png").read_bytes() for name in ("first", "second")}
    check(len(pictures) == 1 and pictures.pop().endswith(b"IEND\xaeB`\x82"), "helm test: two pictures, or one that is not whole")


def end(pod):
    """SIGTERM, as the kubelet sends it after preStop; SIGKILL would come when the rest of the grace is over."""
    pod.process.send_signal(signal.SIGTERM)
    return time.monotonic()


try:
    etcd.start(services)
    check(wait_for(lambda: etcd.probe("readinessProbe") == 200), f"etcd-dev: {etcd.said()}")
    for pod in coordinators:
        pod.start(services)
    for pod in coordinators:  # ready without a worker, the standby as well: scaling from zero and helm --wait need it
        check_probes(pod)
    for pod in workers:
        pod.start(services)
    for pod in workers:
        check_probes(pod)
    (work / "test-drawn").mkdir()
    for pod in coordinators:  # the leader, and the one that passes calls on
        draw({**services, f"{FULLNAME}.studio.svc": pod.address})
    secret = [word for word in test.words(test.spec["containers"][0], services) if word.startswith("--tls-")]
    for pod in coordinators:  # whoever is asked shows everybody who was started
        made = subprocess.run([diptych, "status", f"--server={pod.address}:50051", *secret], capture_output=True, text=True, env=common.ENVIRONMENT)
        shown = set(re.findall(r"^(\S+) +(?:ar|diffusion) +ready", made.stdout, re.M))
        pools = set(re.findall(r"^(ar|diffusion) +1 ready", made.stdout, re.M))
        check(shown == {"ar-0-0", "ar-0-1", "diffusion-0"} and pools == {"ar", "diffusion"}, f"{pod.name} shows {sorted(shown)}: {made.stdout}{made.stderr}")
    # Without a certificate nobody gets in.
    bare = [word for word in test.words(test.spec["containers"][0], services) if not word.startswith(("--tls-cert", "--tls-key"))]
    made = subprocess.run(bare, capture_output=True, text=True, env=common.ENVIRONMENT, cwd=work, timeout=PATIENCE_S)
    check(made.returncode == 3, f"a client without a certificate: exit {made.returncode}: {made.stderr}")
    ends = {pod: end(pod) for pod in daemons}
    for pod, begin in ends.items():
        left = pod.spec["terminationGracePeriodSeconds"] - 10  # of a coordinator: after preStop
        try:
            check(pod.process.wait(timeout=left) == 0, f"{pod.name} ended with {pod.process.returncode}: {pod.said()}")
        except subprocess.TimeoutExpired:
            check(False, f"{pod.name} would have been killed after {left} s: {pod.said()}")
finally:
    for pod in [*daemons, etcd]:
        if pod.process and pod.process.poll() is None:
            pod.process.kill()
            pod.process.wait()
common.finish("run")
