#!/usr/bin/env python3
# tests/helm/test_docs.py - what the operator's pages say exists: commands, options, values, names of objects, links, and the
# output of every plan.
#
# test_docs.py DIPTYCH [--write]: with --write the plans of docs/capacity.md are written anew instead of compared
import pathlib
import re
import shlex
import sys

import common
from common import CHART, HELM, ROOT, check, keys

diptych = sys.argv[1]
PAGES = [ROOT / "docs" / "operations.md", ROOT / "docs" / "capacity.md", CHART / "README.md"]
VALUES = {".".join(key["path"]) for key in keys()}
OPTIONS = common.run(diptych, "options", "--markdown").stdout
FLAGS = set(re.findall(r"^\| `(--[a-z0-9-]+)", OPTIONS, re.M))
HELM_FLAGS = set(re.findall(r"^ +(?:-[a-z], )?(--[a-z0-9-]+)", common.run(HELM, "upgrade", "--help").stdout, re.M))
ENVIRONMENTS = set(re.findall(r"`(DIPTYCH_[A-Z0-9_]+)`", OPTIONS))


def blocks(text):
    """The lines of every fenced block, with lines that go on joined."""
    for block in re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.M | re.S):
        yield [line.strip() for line in block.replace("\\\n", " ").splitlines()]


# ---- diptych ----
helps = {}


def flags_of(command):
    if command not in helps:
        said = common.run(diptych, "help", command)
        helps[command] = set(re.findall(r"(?:^|[ ,])(-[A-Za-z]|--[a-z0-9-]+)(?=[ ,])", said.stdout, re.M)) if said.returncode == 0 else None
    return helps[command]


def check_diptych(where, words):
    known = flags_of(words[1])
    if check(known is not None, f"{where}: there is no diptych {words[1]}"):
        for word in words[2:]:
            if word.startswith("-") and len(word) > 1:
                check(word.split("=")[0] in known, f"{where}: diptych {words[1]} knows no {word}")


# ---- helm: what is given must render ----
rendered = {}


def render(release, namespace, values):
    """The names of the objects of an installation as a page describes it."""
    told = (release, namespace, *values)
    if told not in rendered:
        made = common.run(HELM, "template", release, CHART, "-n", namespace, *values)
        check(made.returncode == 0, f"helm template {' '.join(map(str, told))}: {made.stderr}")
        rendered[told] = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in common.yaml.safe_load_all(made.stdout) if one}
    return rendered[told]


def option_values(words, name):
    return [words[i + 1] for i, word in enumerate(words[:-1]) if word == name]


objects = set()


def check_helm(where, words):
    check(words[1] in ("install", "upgrade", "rollback", "test"), f"{where}: helm {words[1]}?")
    if words[1] not in ("install", "upgrade"):
        return
    files, sets = option_values(words, "-f"), option_values(words, "--set")
    for file in files:
        check((ROOT / file).exists() or file == "my-values.yaml", f"{where}: no {file}")
    for one in sets:
        check(one.split("=")[0] in VALUES, f"{where}: no value {one}")
    if words[2] not in ("pictures", "diptych") or not check((ROOT / words[3]).samefile(CHART), f"{where}: no chart at {words[3]}"):
        return
    base = [] if files else ["-f", ROOT / "helm/diptych/ci/external-etcd-values.yaml"]  # --reuse-values: what was installed before
    given = [word for file in files if (ROOT / file).exists() for word in ("-f", ROOT / file)] + [word for one in sets for word in ("--set", one)]
    objects.update(render(words[2], "diptych", tuple(base + given)))


KINDS = {"deployment": "deployment", "statefulset": "statefulset", "service": "service"}
pages = {path: path.read_text() for path in PAGES}
kubectl, count = [], 0
for path, text in pages.items():
    for lines in blocks(text):
        for line in lines:
            where = f"{path.name}: {line}"
            line = line.removeprefix("$ ")
            if line.startswith(("diptych ", "helm ")):
                count += 1
                words = shlex.split(line.split(" | ")[0].split(" >")[0])
                (check_diptych if words[0] == "diptych" else check_helm)(where, words)
            elif line.startswith("kubectl "):
                kubectl.append((where, line))
check(count >= 15, f"only {count} commands on the pages")
for where, line in kubectl:
    for kind, name in re.findall(r"\b(deployment|statefulset|service)/([a-z0-9-]+)", line):
        check(f"{kind}/{name}" in objects, f"{where}: the chart makes no {kind}/{name}")
    for name in re.findall(r"get secret (\S+)", line):
        check(f"certificate/{name}" in objects, f"{where}: the chart makes no secret {name}")

# ---- the notes that helm prints ----
for case in common.CASES:
    lines = [line.strip() for line in common.render_notes(case).splitlines()]
    typed = [re.sub(r"^[A-Z_]+=\S+ ", "", line) for line in lines if re.match(r"([A-Z_]+=\S+ )?diptych ", line)]
    check(len(typed) == 1, f"notes of {case}: {len(typed)} commands")
    for line in typed:
        check_diptych(f"notes of {case}", shlex.split(line))

# ---- words in backticks ----
ROOTS = {key.split(".")[0] for key in VALUES if "." in key} - {"test"}
for path, text in pages.items():
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    for word in re.findall(r"`([^`\n]+)`", prose):
        if re.fullmatch(r"[a-zA-Z]+(\.[a-zA-Z]+)+([:=] ?\S+)?", word) and word.split(".")[0] in ROOTS:
            key = re.split(r"[:=]", word)[0]
            check(key in VALUES, f"{path.name}: there is no value {word}")
        if re.fullmatch(r"--[a-z0-9-]+", word):
            check(word in FLAGS | HELM_FLAGS, f"{path.name}: there is no option {word}")
        if re.fullmatch(r"DIPTYCH_[A-Z0-9_]+", word):
            check(word in ENVIRONMENTS, f"{path.name}: no option has the variable {word}")


# ---- links ----
def anchors(path):
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", path.read_text(), re.M)}


for path, text in pages.items():
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        if check(to.exists(), f"{path.name}: {target} leads nowhere") and anchor:
            check(anchor in anchors(to), f"{path.name}: {target}: no such heading")

# ---- tags of images are those that the chart asks for ----
version = common.yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
tags = set(re.findall(r"docker (?:build .*-t|push) \S+/diptych:(\S+)", pages[PAGES[0]]))
check(tags == {version, f"{version}-cuda"}, f"operations.md: tags {sorted(tags)}")

# ---- sums that the page states are those of the chart ----
grace = {one["metadata"]["name"]: one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
         for one in common.render("minimal") if one["kind"] in ("Deployment", "StatefulSet") and "etcd" not in one["metadata"]["name"]}
row = re.search(r"\| `terminationGracePeriodSeconds` \| (\d+) \| (\d+) \|", pages[PAGES[0]])
check(row and set(grace.values()) == {int(row.group(1)), int(row.group(2))}, f"operations.md: grace periods {row and row.groups()}, the chart's: {grace}")

# ---- every plan prints what the page says ----
plans = re.findall(r"```\n\$ (diptych plan [^\n]*)\n(.*?)```", pages[PAGES[1]], re.S)
check(len(plans) >= 4, f"capacity.md: only {len(plans)} plans")
for command, said in plans:
    made = common.run(pathlib.Path(diptych).resolve(), *shlex.split(command)[1:], cwd=ROOT)
    if sys.argv[2:] == ["--write"]:
        PAGES[1].write_text(PAGES[1].read_text().replace(f"$ {command}\n{said}", f"$ {command}\n{made.stdout}{made.stderr}"))
    else:
        check(made.stdout + made.stderr == said, f"capacity.md: {command} prints otherwise (see --write):\n{made.stdout}{made.stderr}")
common.finish("docs")
