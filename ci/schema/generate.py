#!/usr/bin/env python3
"""Writes the table of schema facts that cluster-impl/machinery embeds.

Source: the PyPI package `kubernetes-validate`, which carries the OpenAPI definitions of every Kubernetes release.
Usage:  pip download --no-deps kubernetes-validate==1.37.0
        python3 ci/schema/generate.py kubernetes_validate-*.whl > cluster-impl/machinery/schema/v1.33.json

Only facts are kept (fields, shapes, list types, merge keys, required fields, kinds); descriptions are not.
A type is {"a": 1, "k": [[group, version, kind], ..], "r": [required ..], "f": {field: shape}}. A shape is text:
  string byte time int32 int64 bool double quantity intstr any   scalars
  #T        the type T; names without the prefix io.k8s. start with io.k8s.api.
  [S] {S}   list and map of shape S
followed, after spaces, by `atomic`, `set` or `map:key,key` (list type), `whole` or `parts` (a map or an object
that is merged as one value, or field by field whatever its type says), `merge`, `merge:key` and `retainKeys`
(patch strategy). A type that is merged as one value has "a": 1. Output is sorted, so that two runs write the
same bytes.
"""

import json
import sys
import zipfile

VERSION = "v1.33.0-local"
PREFIX = "io.k8s.api."
SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intstr",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "any",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "any",
}
SCALARS = {
    ("string", "byte"): "byte",
    ("string", "date-time"): "time",
    ("integer", "int32"): "int32",
    ("integer", "int64"): "int64",
    ("boolean", None): "bool",
    ("number", "double"): "double",
    ("string", None): "string",
}


def short(name):
    return name[len(PREFIX):] if name.startswith(PREFIX) else name


def shape(schema, definitions):
    reference = schema.get("$ref")
    if reference:
        name = reference.rsplit("/", 1)[1]
        if name in SPECIAL:
            return SPECIAL[name]
        target = definitions[name]
        if "properties" not in target:
            return shape(target, definitions)
        return "#" + short(name)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(one for one in kind if one != "null")
    if kind == "array":
        return "[" + shape(schema["items"], definitions) + "]"
    if kind == "object":
        values = schema.get("additionalProperties")
        return "{" + shape(values, definitions) + "}" if isinstance(values, dict) else "any"
    return SCALARS.get((kind, schema.get("format")), "any")


def field(schema, definitions):
    words = [shape(schema, definitions)]
    lists = schema.get("x-kubernetes-list-type")
    if lists == "map":
        words.append("map:" + ",".join(schema["x-kubernetes-list-map-keys"]))
    elif lists:
        words.append(lists)
    maps = schema.get("x-kubernetes-map-type")
    if maps:
        words.append({"atomic": "whole", "granular": "parts"}[maps])
    for strategy in schema.get("x-kubernetes-patch-strategy", "").split(","):
        if strategy == "merge":
            key = schema.get("x-kubernetes-patch-merge-key")
            words.append(f"merge:{key}" if key else "merge")
        elif strategy == "retainKeys":
            words.append("retainKeys")
    return " ".join(words)


def main():
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        path = f"kubernetes_validate/kubernetes-json-schema/{VERSION}/_definitions.json"
        definitions = json.loads(wheel.read(path))["$defs"]
    types = {}
    waiting = [name for name, one in definitions.items() if one.get("x-kubernetes-group-version-kind")]
    while waiting:
        name = waiting.pop()
        one = definitions[name]
        if short(name) in types or "properties" not in one or name in SPECIAL:
            continue
        fact = {"f": {key: field(one["properties"][key], definitions) for key in sorted(one["properties"])}}
        if one.get("x-kubernetes-map-type") == "atomic":
            fact["a"] = 1
        if one.get("required"):
            fact["r"] = sorted(one["required"])
        kinds = [[k["group"], k["version"], k["kind"]] for k in one.get("x-kubernetes-group-version-kind", [])]
        if len(kinds) == 1:
            fact["k"] = kinds
        types[short(name)] = fact
        text = json.dumps(one)
        waiting += [other for other in definitions if f'$defs/{other}"' in text]
    print('{"version":"' + VERSION.split("-")[0] + '","types":{')
    lines = [
        json.dumps(name) + ":" + json.dumps(types[name], separators=(",", ":"), sort_keys=True)
        for name in sorted(types)
    ]
    print(",\n".join(lines))
    print("}}")


if __name__ == "__main__":
    main()
