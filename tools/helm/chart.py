#!/usr/bin/env python3
# tools/helm/chart.py - values.schema.json and README.md of the chart, made from the comments of its values.yaml.
#
#   chart.py           writes both
#   chart.py --check   says which one is not what the comments say, and ends with 1
#   chart.py --keys    one line per key with its annotations as JSON, for tests
#
# values.yaml is the only place where a key is described: its default, its words ("# --") and, behind "@", what a machine
# must know of it (the head of that file has the list). A key without words is an error, and so is a word that is not known.
import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "helm" / "diptych"
WORDS = {"option", "serves", "range", "enum", "pattern", "quantity", "list", "map", "type", "deprecated"}
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
INTEGER_MAX = 2**53 - 1


class Key:
    """One key of values.yaml: where it is, what it is by default, and what its comment says."""

    def __init__(self, path, default, comment):
        self.path, self.default = path, default
        words = [line for line in comment if not line.startswith("@")]
        if not words or not words[0].startswith("-- "):
            raise SystemExit(f"values.yaml: {'.'.join(path)} has no comment that begins with '# --'")
        self.words = " ".join([words[0][3:]] + words[1:])
        self.marks = {}
        for line in comment:
            if line.startswith("@"):
                name, _, rest = line[1:].partition(" ")
                if name not in WORDS:
                    raise SystemExit(f"values.yaml: {'.'.join(path)}: @{name} is not known")
                self.marks[name] = rest.split() if name != "pattern" else rest

    @property
    def name(self):
        return ".".join(self.path)

    @property
    def is_group(self):
        return isinstance(self.default, dict) and "map" not in self.marks

    def as_row(self):
        return {"path": list(self.path), "default": self.default, "words": self.words, "marks": self.marks}


def read_keys(text):
    """All keys in order of appearance. The file keeps to one style: two spaces a level, comments above their key."""
    values, keys, comment, stack, skip = yaml.safe_load(text), [], [], [], None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if skip is not None and stripped and indent > skip:
            continue
        skip = None
        if stripped.startswith("# "):
            comment.append(stripped[2:].strip())
        elif not stripped or stripped == "#":
            comment = []
        else:
            match = re.match(r"^([A-Za-z][A-Za-z0-9]*):", stripped)
            if not match or indent % 2 or indent // 2 > len(stack):
                raise SystemExit(f"values.yaml:{number}: neither a comment nor a key: {stripped}")
            stack = stack[: indent // 2] + [match.group(1)]
            default = values
            for part in stack:
                default = default[part]
            keys.append(Key(tuple(stack), default, comment))
            if not keys[-1].is_group:
                skip = indent
            comment = []
    return values, keys


def scalar_schema(key):
    default, marks = key.default, key.marks
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, (int, float)):
        return {"type": "integer" if isinstance(default, int) else "number"}
    if isinstance(default, str):
        return {"type": "string"}
    raise SystemExit(f"values.yaml: {key.name}: what is {default!r}?")


def key_schema(key, bounds):
    """The schema of one key; of a group only its head."""
    marks = key.marks
    schema = {"description": key.words}
    if "map" in marks:
        return schema | {"type": "object"}
    if key.is_group:
        return schema | {"type": "object", "additionalProperties": False, "properties": {}}
    if "list" in marks:
        types = [word for word in marks["list"] if not word.startswith("^")]
        items = {"type": types if len(types) > 1 else types[0]}
        patterns = [word for word in marks["list"] if word.startswith("^")]
        if patterns:
            items["pattern"] = patterns[0]
        return schema | {"type": "array", "items": items}
    schema |= scalar_schema(key)
    if "type" in marks:
        schema["type"] = marks["type"]
    if "enum" in marks:
        schema["enum"] = [{"true": True, "false": False, "_": ""}.get(word, word) for word in marks["enum"]]
        del schema["type"]
    if "pattern" in marks:
        schema["pattern"] = marks["pattern"]
    if "quantity" in marks:
        schema["pattern"] = QUANTITY
    low_high = marks.get("range") or bounds.get(key.name)
    if low_high:
        schema["minimum"], schema["maximum"] = (float(x) if "." in str(x) else int(x) for x in low_high)
    elif schema.get("type") == "integer":
        schema["minimum"], schema["maximum"] = 0, INTEGER_MAX
    return schema


def option_bounds(keys):
    """Bounds that an option of the program gives its key: 'LOW to HIGH' in the table of docs/options.md."""
    table, bounds = {}, {}
    for line in (CHART.parents[1] / "docs" / "options.md").read_text().splitlines():
        match = re.match(r"^\| `(--[a-z0-9-]+)[^`]*`.*\| (\d+) to (\d+)\b[^|]*\|$", line)
        if match:
            table[match.group(1)] = (match.group(2), match.group(3))
    for key in keys:
        for option in key.marks.get("option", []):
            if option in table and isinstance(key.default, int):
                bounds[key.name] = table[option]
    return bounds


def make_schema(keys):
    root = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Made by tools/helm/chart.py from values.yaml: change that one.",
        "title": "Values of the Diptych chart",
        "type": "object",
        "additionalProperties": False,
        "properties": {"global": {"type": "object", "description": "of charts that hold this one; unused here"}},
    }
    bounds = option_bounds(keys)
    for key in keys:
        at = root
        for part in key.path[:-1]:
            at = at["properties"][part]
        at["properties"][key.path[-1]] = key_schema(key, bounds)
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def cell(text):
    return text.replace("|", "\\|")


def make_table(keys):
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in keys:
        words = key.words
        options = key.marks.get("option", []) + key.marks.get("serves", [])
        if key.is_group:
            rows.append(f"| **{key.name}** | | {cell(words)} |")
            continue
        if options:
            words += " (" + ", ".join(f"`{option}`" for option in options) + ")"
        default = json.dumps(key.default, ensure_ascii=False, separators=(", ", ": "))
        rows.append(f"| `{key.name}` | `{cell(default)}` | {cell(words)} |")
    return "\n".join(rows) + "\n"


def make_readme(keys, template):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    facts = {"VERSION": chart["version"], "APP_VERSION": chart["appVersion"],
             "KUBE_VERSION": chart["kubeVersion"].replace("-0", ""), "VALUES": make_table(keys)}
    for name, value in facts.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def main(words):
    _, keys = read_keys((CHART / "values.yaml").read_text())
    if words == ["--keys"]:
        for key in keys:
            print(json.dumps(key.as_row()))
        return 0
    template = (pathlib.Path(__file__).parent / "README.md.in").read_text()
    made = {"values.schema.json": make_schema(keys), "README.md": make_readme(keys, template)}
    stale = 0
    for name, text in made.items():
        path = CHART / name
        if words == ["--check"]:
            if not path.exists() or path.read_text() != text:
                print(f"helm/diptych/{name} is stale: run tools/helm/chart.py")
                stale = 1
        else:
            path.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
