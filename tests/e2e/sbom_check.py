"""tests/e2e/sbom_check.py - an image's bill of materials against the tree it describes and against dpkg: sbom_check.py ROOT."""

import hashlib
import json
import os
import re
import subprocess
import sys

ROOT = sys.argv[1]
SBOM = "usr/share/diptych/sbom.spdx.json"
problems = []


def check(is_right, *words):
    if not is_right:
        problems.append(" ".join(str(word) for word in words))


def tree(root):
    """path: (sha1, sha256) of every regular file but the document."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            full = os.path.join(folder, name)
            if os.path.islink(full) or full.endswith(SBOM):
                continue
            with open(full, "rb") as file:
                content = file.read()
            found["./" + os.path.relpath(full, root)] = (hashlib.sha1(content).hexdigest(),
                                                         hashlib.sha256(content).hexdigest())
    return found


def check_form(sbom):
    """The rules of SPDX 2.3 that its JSON schema states for what we use."""
    check(sbom["spdxVersion"] == "SPDX-2.3", "version", sbom["spdxVersion"])
    check(sbom["dataLicense"] == "CC0-1.0", "license of the data")
    check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", sbom["creationInfo"]["created"]), "date")
    check(re.fullmatch(r"[a-z]+:[^#\s]+", sbom["documentNamespace"]), "namespace")
    ids = [sbom["SPDXID"]] + [entry["SPDXID"] for entry in sbom["packages"] + sbom["files"]]
    check(len(ids) == len(set(ids)), "ids are not unique")
    for name in ids:
        check(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name), "id", name)
    for relation in sbom["relationships"]:
        check(relation["spdxElementId"] in ids and relation["relatedSpdxElement"] in ids, "relation to nobody", relation)
    described = [r for r in sbom["relationships"] if r["relationshipType"] == "DESCRIBES"]
    check(len(described) == 1, "describes", described)
    for package in sbom["packages"]:
        for key in ("name", "SPDXID", "versionInfo", "downloadLocation", "licenseConcluded", "licenseDeclared",
                    "copyrightText", "supplier"):
            check(package.get(key), package["name"], "lacks", key)


def check_files(sbom, files):
    listed = {entry["fileName"]: tuple(sum_["checksumValue"] for sum_ in entry["checksums"]) for entry in sbom["files"]}
    for path in sorted(set(files) | set(listed)):
        check(files.get(path) == listed.get(path), "not as in the tree:", path)
    name_of = {entry["SPDXID"]: entry["fileName"] for entry in sbom["files"]}
    owned = [name_of[one] for package in sbom["packages"] for one in package.get("hasFiles", [])]
    check(sorted(owned) == sorted(files), "files without one owner")
    for package in sbom["packages"]:
        if package["filesAnalyzed"]:
            hashes = "".join(sorted(files.get(name_of[one], ("", ""))[0] for one in package["hasFiles"]))
            check(package["packageVerificationCode"]["packageVerificationCodeValue"] ==
                  hashlib.sha1(hashes.encode()).hexdigest(), "verification code of", package["name"])


def check_debian(sbom):
    """Every library of the distribution is in a package of the very version that is installed, and dpkg agrees whose it is."""
    names = {}
    for package in sbom["packages"]:
        locators = [reference["referenceLocator"] for reference in package.get("externalRefs", [])]
        if any(locator.startswith("pkg:deb/") for locator in locators):
            names[package["name"]] = package["versionInfo"]
    answer = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Version}\n", *names], check=True,
                            capture_output=True, text=True).stdout
    check(dict(line.split("\t") for line in answer.splitlines()) == names, "versions differ from dpkg's:", answer, names)
    check({"libc6", "ca-certificates", "libssl3"} <= set(names), "packages", sorted(names))
    path_of = {entry["SPDXID"]: entry["fileName"] for entry in sbom["files"]}
    for package in sbom["packages"]:
        for one in package.get("hasFiles", []):
            path = path_of[one]
            if re.search(r"/lib(64)?/.*\.so", path) and package["name"] in names:
                mine = subprocess.run(["dpkg-query", "-L", package["name"]], capture_output=True, text=True, check=True)
                check(os.path.basename(path) in [os.path.basename(line) for line in mine.stdout.splitlines()],
                      path, "is not in", package["name"])
            elif re.search(r"/lib(64)?/.*\.so", path):
                check("/diptych/" in path, path, "belongs to no package of the distribution")


def main():
    with open(os.path.join(ROOT, SBOM), encoding="utf-8") as file:
        sbom = json.load(file)
    check_form(sbom)
    check_files(sbom, tree(ROOT))
    check_debian(sbom)
    print("\n".join(problems))
    print("sbom: %d packages, %d files, %d problems" % (len(sbom["packages"]), len(sbom["files"]), len(problems)))
    sys.exit(bool(problems))


main()
