#!/usr/bin/env python3
# tests/helm/test_manifests.py - real helm lint and helm template of every ci file, and kubeconform over what comes out.
import pathlib
import re
import tempfile

import common
from common import CASES, MADE, check

WANTED = {"minimal", "tls", "keda", "hpa", "lws", "external-etcd", "restricted", "cpu-only"}
check(WANTED <= set(CASES), f"ci files are missing: {WANTED - set(CASES)}")


def kubeconform(*words):
    return common.run(MADE / "kubeconform", "-strict", "-summary", "-kubernetes-version", "1.36.0", "-schema-location",
                      str(MADE / "schemas" / "{{.ResourceKind}}{{.KindSuffix}}.json"), *words)


folder = tempfile.TemporaryDirectory()
files, objects = [], 0
for case in [None] + CASES:
    words = ("-f", common.case_file(case)) if case else ()
    name = case or "values.yaml alone"
    linted = common.helm("lint", "--strict", *words)
    check(linted.returncode == 0 and "0 chart(s) failed" in linted.stdout, f"{name}: helm lint: {linted.stdout}{linted.stderr}")
    made = common.helm("template", *words)
    if check(made.returncode == 0, f"{name}: helm template: {made.stderr}"):
        files.append(pathlib.Path(folder.name) / f"{case or 'default'}.yaml")
        files[-1].write_text(made.stdout)
        count = sum(1 for one in common.yaml.safe_load_all(made.stdout) if one)
        check(count >= 15, f"{name}: only {count} objects")
        objects += count
        check("<no value>" not in made.stdout and "%!" not in made.stdout, f"{name}: a template printed a value that is none")

# All of them in one go, which reads each schema once.
made = kubeconform(*files)
told = re.search(r"(\d+) resources found.*Valid: (\d+), Invalid: 0, Errors: 0, Skipped: 0", made.stdout)
check(made.returncode == 0 and told and int(told.group(1)) == int(told.group(2)) == objects, f"kubeconform: {objects} objects: {made.stdout}{made.stderr}")
# It must see what is wrong, or the above says nothing.
files[0].write_text(files[0].read_text().replace("terminationGracePeriodSeconds: ", "terminationGracePeriod: "))
made = kubeconform(files[0])
check(made.returncode != 0 and "terminationGracePeriod" in made.stdout, f"kubeconform takes a wrong field: {made.stdout}")

# Every release of Kubernetes that the chart says it runs on renders, and older ones are refused in words.
for version, works in (("1.30.0", True), ("1.29.0", False)):
    made = common.helm("template", "-f", common.case_file("minimal"), kube=version)
    check((made.returncode == 0) == works, f"Kubernetes {version}: {made.stderr or 'was taken'}")
common.finish("manifests")
