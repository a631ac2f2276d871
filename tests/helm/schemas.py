#!/usr/bin/env python3
# tests/helm/schemas.py - JSON schemas of Kubernetes' objects for kubeconform, from Kubernetes' own OpenAPI description and from
# the definitions of other resources that the chart can make. Closed: a field that is not described is an error.
#
# schemas.py OUT SWAGGER.json CRD.yaml...: writes OUT/<kind>-<group>-<version>.json
import json
import pathlib
import sys

import yaml

INT_OR_STRING = {"oneOf": [{"type": "string"}, {"type": "integer"}]}


def closed(schema):
    """The same schema, in which no object may have fields that it does not describe."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return INT_OR_STRING
    made = {name: closed(part) for name, part in schema.items()
            if not name.startswith("x-") and name not in ("format", "properties")}
    # A field may be called "properties": only a table of schemas describes an object.
    properties = schema.get("properties")
    if isinstance(properties, dict):
        made["properties"] = {name: closed(part) for name, part in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            made["additionalProperties"] = False
    return made


def with_head(schema):
    """Of a resource: apiVersion, kind and metadata, which definitions of custom resources leave to others."""
    properties = schema.setdefault("properties", {})
    for name in ("apiVersion", "kind"):
        properties.setdefault(name, {"type": "string"})
    if properties.get("metadata", {}).get("properties") is None and "$ref" not in properties.get("metadata", {}):
        properties["metadata"] = {"$ref": "_definitions.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    return schema


def names_of(kind, group, version):
    short = group.split(".")[0]
    return "-".join([kind.lower()] + ([short] if short else []) + [version.lower()]) + ".json"


def write(folder, name, schema):
    (folder / name).write_text(json.dumps(schema))


def main(out, swagger, crds):
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    definitions = json.loads(pathlib.Path(swagger).read_text())["definitions"]
    made = {name: closed(definition) for name, definition in definitions.items()}
    made["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"oneOf": [{"type": "string"}, {"type": "number"}]}
    text = json.dumps({"definitions": made}).replace('"#/definitions/', '"_definitions.json#/definitions/')
    (folder / "_definitions.json").write_text(text)
    count = 0
    for name, definition in definitions.items():
        for of in definition.get("x-kubernetes-group-version-kind", []):
            write(folder, names_of(of["kind"], of["group"], of["version"]), {"$ref": f"_definitions.json#/definitions/{name}"})
            count += 1
    for path in crds:
        for crd in yaml.safe_load_all(pathlib.Path(path).read_text()):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = with_head(closed(version["schema"]["openAPIV3Schema"]))
                schema["additionalProperties"] = False
                write(folder, names_of(spec["names"]["kind"], spec["group"], version["name"]), schema)
                count += 1
    print(f"schemas: {count} kinds")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
