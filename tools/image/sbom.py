#!/usr/bin/env python3
"""tools/image/sbom.py - the bill of materials of an image's file tree, as SPDX 2.3 in JSON.

Packages are Debian's (name, version and architecture as dpkg knows them), the program itself, and what is linked into it
without being a package (--parts). Every regular file of the tree belongs to exactly one package and carries its hashes.
The document is a function of the tree: equal trees have equal documents, whatever the day."""

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import urllib.parse

SBOM = "usr/share/diptych/sbom.spdx.json"
UNSAID = "NOASSERTION"


def spdx_id(kind, name):
    return "SPDXRef-%s-%s" % (kind, re.sub(r"[^A-Za-z0-9.-]", "-", name))


def read_origins(path):
    with open(path, encoding="utf-8") as lines:
        return dict(line.rstrip("\n").split("\t") for line in lines)


def read_files(root, origins):
    """Every regular file but the document itself, in order of its path: (path, package, sha1, sha256)."""
    found = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in names:
            full = os.path.join(folder, name)
            path = "/" + os.path.relpath(full, root)
            if os.path.islink(full) or path == "/" + SBOM:
                continue
            with open(full, "rb") as file:
                content = file.read()
            status = re.fullmatch(r"/var/lib/dpkg/status\.d/(.+)", path)
            package = status.group(1) if status else origins.get(path, "diptych")
            found.append((path, package, hashlib.sha1(content).hexdigest(), hashlib.sha256(content).hexdigest()))
    return sorted(found)


def os_release(root):
    with open(os.path.join(root, "usr/lib/os-release"), encoding="utf-8") as lines:
        pairs = dict(line.rstrip("\n").split("=", 1) for line in lines if "=" in line)
    return pairs["ID"].strip('"'), pairs.get("VERSION_ID", "").strip('"')


def purl(text):
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": text}


def debian_package(name, distribution):
    asked = "${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Maintainer}\t${Homepage}"
    answer = subprocess.run(["dpkg-query", "-W", "-f", asked, name], check=True, capture_output=True, text=True)
    version, architecture, source, source_version, maintainer, homepage = answer.stdout.split("\t")
    upstream = source if source_version == version else "%s@%s" % (source, source_version)
    locator = "pkg:deb/%s/%s@%s?arch=%s&distro=%s-%s&upstream=%s" % (
        distribution[0], name, urllib.parse.quote(version, safe=".~"), architecture, *distribution,
        urllib.parse.quote(upstream, safe=".~"))
    return {"name": name, "versionInfo": version, "supplier": "Organization: " + maintainer,
            "homepage": homepage or UNSAID, "externalRefs": [purl(locator)],
            "sourceInfo": "source package %s %s" % (source, source_version)}


def wheel(name):
    name, version = name[len("pypi:"):].split("@")
    return {"name": name, "versionInfo": version, "supplier": "Organization: NVIDIA Corporation",
            "externalRefs": [purl("pkg:pypi/%s@%s" % (name, version))]}


def about(name, version, distribution):
    if name == "diptych":
        return {"name": name, "versionInfo": version, "supplier": UNSAID}
    return wheel(name) if name.startswith("pypi:") else debian_package(name, distribution)


def linked_part(part):
    references = [purl(part[key]) for key in ("purl", "source") if key in part]
    if "cpe" in part:
        references.append({"referenceCategory": "SECURITY", "referenceType": "cpe23Type", "referenceLocator": part["cpe"]})
    package = {"name": part["name"], "versionInfo": part["version"], "supplier": UNSAID}
    return dict(package, externalRefs=references) if references else package


def verification_code(hashes):
    return hashlib.sha1("".join(sorted(hashes)).encode()).hexdigest()


def finish(package, files, licence=UNSAID):
    """What every package of the document says, with its files when it has any."""
    package.update({"SPDXID": spdx_id("Package", package["name"]), "downloadLocation": UNSAID,
                    "licenseConcluded": UNSAID, "licenseDeclared": licence, "copyrightText": UNSAID,
                    "filesAnalyzed": bool(files)})
    if files:
        package["packageVerificationCode"] = {
            "packageVerificationCodeValue": verification_code(sha1 for _, _, sha1, _ in files)}
        package["licenseInfoFromFiles"] = [UNSAID]
        package["hasFiles"] = [spdx_id("File", path) for path, _, _, _ in files]
    return package


def file_entry(path, sha1, sha256):
    return {"SPDXID": spdx_id("File", path), "fileName": "." + path, "licenseConcluded": UNSAID,
            "licenseInfoInFiles": [UNSAID], "copyrightText": UNSAID,
            "checksums": [{"algorithm": "SHA1", "checksumValue": sha1},
                          {"algorithm": "SHA256", "checksumValue": sha256}]}


def relation(one, kind, other):
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def document(root, origins, epoch, version, parts):
    files = read_files(root, origins)
    distribution = os_release(root)
    own = spdx_id("Package", "diptych")
    packages, relations = [], [relation("SPDXRef-DOCUMENT", "DESCRIBES", own)]
    for name in sorted({package for _, package, _, _ in files}):
        mine = [entry for entry in files if entry[1] == name]
        packages.append(finish(about(name, version, distribution), mine))
        if name != "diptych":
            relations.append(relation(own, "DEPENDS_ON", packages[-1]["SPDXID"]))
    for part in parts:
        packages.append(finish(linked_part(part), [], part["licence"]))
        relations.append(relation(own, part.get("relation", "STATIC_LINK"), packages[-1]["SPDXID"]))
    content = hashlib.sha256("".join(path + sha256 for path, _, _, sha256 in files).encode()).hexdigest()
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
            "name": "diptych-" + version, "documentNamespace": "urn:diptych:image:" + content,
            "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: tools/image/sbom.py"]},
            "packages": packages, "relationships": relations,
            "files": [file_entry(path, sha1, sha256) for path, _, sha1, sha256 in files]}


def main():
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("root", help="the tree")
    words.add_argument("--origins", required=True, help="lines of path, TAB, Debian package or pypi:NAME@VERSION; other files are our own")
    words.add_argument("--epoch", type=int, required=True, help="the document's date, seconds since 1970")
    words.add_argument("--version", required=True, help="of the program")
    words.add_argument("--parts", action="append", default=[], help="JSON list of what is linked in without being a package")
    given = words.parse_args()
    parts = []
    for path in given.parts:
        with open(path, encoding="utf-8") as file:
            parts += json.load(file)
    made = document(given.root, read_origins(given.origins), given.epoch, given.version, parts)
    with open(os.path.join(given.root, SBOM), "w", encoding="utf-8") as file:
        json.dump(made, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
