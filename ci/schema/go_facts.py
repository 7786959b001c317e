#!/usr/bin/env python3
"""Writes go.txt: which fields Go always writes, and which it holds by pointer.

usage: go_facts.py SCHEMA FOLDER=PREFIX.. > cluster-impl/machinery/schema/go.txt

SCHEMA is machinery/schema/v1.33.json. FOLDER holds Go sources, one package a folder with a types.go, and
PREFIX is what their type names begin with, such as `k8s.io/api=io.k8s.api`. Debian's source packages
golang-k8s-api and golang-k8s-apimachinery (0.32.3) have both; kubernetes (1.20) has apiextensions and
kube-aggregator. A newer type or field that they do not know yet is left out.

One line per type: its name, then the fields of interest, each with its letters:
  a  always written, even when zero: a struct held by value, or anything without `omitempty`
  p  held by pointer: zero is not the same as absent
"""

import json
import re
import sys
from pathlib import Path

STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.S | re.M)
FIELD = re.compile(r"^\s*(?:(\w+)\s+)?([\w.*\[\]]+)\s+`([^`]*)`", re.M)


def structs(folder, prefix):
    for path in sorted(Path(folder).rglob("*.go")):
        if path.name.endswith("_test.go") or path.name.startswith("zz_") or path.name == "generated.pb.go":
            continue
        package = ".".join((prefix, *path.parent.relative_to(folder).parts))
        for name, body in STRUCT.findall(path.read_text()):
            yield package, name, body


def main():
    types = json.loads(Path(sys.argv[1]).read_text())["types"]
    full = lambda name: name if name.startswith("io.k8s.") else "io.k8s.api." + name
    wanted = {full(name): fact["f"] for name, fact in types.items()}
    bodies = {}
    for pair in sys.argv[2:]:
        folder, prefix = pair.split("=")
        for package, name, body in structs(folder, prefix):
            bodies.setdefault(f"{package}.{name}", (package, body))

    def fields(name):
        package, body = bodies[name]
        body = re.sub(r"//[^\n]*", "", body)
        for field, go, tag in FIELD.findall(body):
            told = re.search(r'json:"([^"]*)"', tag)
            if not told:
                continue
            key, *options = told.group(1).split(",")
            if not key and "inline" in options or not key and not field:
                inner = go.lstrip("*").split(".")[-1]
                if inner == "TypeMeta":
                    continue
                home = "io.k8s.apimachinery.pkg.apis.meta.v1" if "metav1." in go else package
                home = "io.k8s.api.core.v1" if go.startswith("v1.") and "core" not in package else home
                if f"{home}.{inner}" in bodies:
                    yield from fields(f"{home}.{inner}")
                continue
            yield key, go, "omitempty" in options

    for name in sorted(wanted):
        if name not in bodies:
            continue
        words = []
        for key, go, is_omitted in sorted(fields(name)):
            shape = wanted[name].get(key, "").split(" ")[0]
            if not shape or key in ("apiVersion", "kind") and "metadata" in wanted[name]:
                continue
            is_struct = shape[0] == "#" or shape in ("time", "quantity", "intstr", "any")
            if go.startswith("*"):
                words.append(f"{key}:{'p' if is_omitted else 'ap'}")
            elif not is_omitted or is_struct and not go.startswith("["):
                words.append(f"{key}:a")
        if words:
            print(name, *words)


main()
