#!/usr/bin/env python3
"""Writes tags.txt: the protobuf field numbers of every API type that the schema knows.

usage: generate.py K8S_PB SCHEMA > tags.txt

K8S_PB is the source folder of the crate k8s-pb (made from upstream's generated.proto files), SCHEMA the
file machinery/schema/v1.33.json. One line per message: its name, then `field=number`. A field that the
JSON form does not have, because Go embeds the struct, is written `*Message=number`: its own fields
stand in the same JSON object. Fields of numbers above the schema's version are left out.
"""

import json
import re
import sys
from pathlib import Path

FIELD = re.compile(r'#\[prost\([^\]]*?tag\s*=\s*"(\d+)"[^\]]*\)\]\s*pub (?:r#)?(\w+):\s*([^#/}]+?),\s*(?=[#/}])', re.S)
STRUCT = re.compile(r"pub struct (\w+) \{(\}|.*?\n\})", re.S)
# Messages that a value decodes to by itself.
SCALARS = {"Time", "MicroTime", "Quantity", "IntOrString", "FieldsV1", "RawExtension", "Timestamp", "Verbs"}


def messages(root):
    areas = {
        "api": "io.k8s.api",
        "apiextensions_apiserver": "io.k8s.apiextensions-apiserver",
        "apimachinery": "io.k8s.apimachinery",
        "kube_aggregator": "io.k8s.kube-aggregator",
    }
    for area, prefix in areas.items():
        for path in sorted((root / "src" / area).rglob("mod.rs")):
            parts = path.relative_to(root / "src" / area).parent.parts
            text = path.read_text()
            for name, body in STRUCT.findall(text):
                yield ".".join((prefix, *parts, name)), FIELD.findall(body)


def main():
    root, schema = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    full = lambda name: name if name.startswith("io.k8s.") else "io.k8s.api." + name
    known = {full(name): fact["f"] for name, fact in schema["types"].items()}
    # The crate spells names as Rust does, such as HttpGetAction: compare their letters only.
    found = {name.lower(): fields for name, fields in messages(root)}
    lines, embedded = {}, set()

    def is_embedded(inside, by_letters):
        """Whether most of a message's fields stand in the outer JSON object; the rest is newer."""
        letters = set()
        for _, rust, kind in found[inside]:
            letter, message = rust.replace("_", ""), re.search(r"Option<(?:super::)*([\w:]+)>", kind)
            inner = inside.rsplit(".", 1)[0] + "." + message.group(1).split("::")[-1].lower() if message else ""
            # What the message itself embeds counts by its fields.
            is_nested = letter not in by_letters and inner in found
            letters |= {one.replace("_", "") for _, one, _ in found[inner]} if is_nested else {letter}
        return 2 * len(letters & set(by_letters)) > len(letters)

    def line(name, json_fields):
        """The entries of one message whose fields are told in `json_fields`; notes what it embeds."""
        by_letters = {field.lower().lstrip("$").replace("-", ""): field for field in json_fields}
        entries = []
        for number, rust, kind in found[name.lower()]:
            field = by_letters.get(rust.replace("_", ""))
            if field:
                entries.append((int(number), field))
                continue
            message = re.search(r"Option<(?:super::)*([\w:]+)>", kind)
            inner = message.group(1).split("::")[-1] if message else ""
            package = name.rsplit(".", 1)[0]
            inside = f"{package}.{inner}".lower()
            if inside in found and inner not in SCALARS and is_embedded(inside, by_letters):
                embedded.add((f"{package}.{inner}", tuple(sorted(json_fields))))
                entries.append((int(number), f"*{package}.{inner}"))
        return entries

    def take(name, json_fields):
        entries = line(name, json_fields)
        old = dict(lines.get(name, []))
        lines[name] = sorted({**old, **dict(entries)}.items())

    for name, fields in known.items():
        if name.lower() in found:
            take(name, fields)
    done = set()
    while embedded - done:
        for pair in sorted(embedded - done):
            done.add(pair)
            take(pair[0], pair[1])
    for name in sorted(lines):
        print(name, *(f"{field}={number}" for number, field in lines[name]))


main()
