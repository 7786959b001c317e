"""Runs schemathesis over each group version that a cluster publishes; called by ci/fuzz-api.

The published schema is narrowed so that requests reach the server's core: one namespace, few names, the
right apiVersion and kind. What the cluster itself lives on (its own namespaces, its roles) is left out.
A definition with a rich schema is made first, and its custom resources are sent like everything else.

schemathesis loads this file too, for the hooks at its end: an open watch ends after a second, and those
5xx are let pass that upstream gives for the same request.
"""

import base64
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import time
import urllib.request

import schemathesis

NAMESPACE = "fuzz"
NAMES = ["a", "b", "x-1"]
# What upstream answers with a 5xx: a list from the future, an apply of what does not fit its schema
# (its fieldmanager returns plain errors), a proxy to what is not there.
UPSTREAMS = {
    500: ("failed to create typed patch object", "failed to decode managed fields"),
    502: ("proxy",),
    503: ("no endpoints available for service", "proxy"),
    504: ("Too large resource version",),
}
# A definition whose schema has something of everything.
TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
WIDGET = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 0, "maximum": 100, "default": 3},
                "mode": {"type": "string", "enum": ["fast", "slow"], "default": "slow"},
                "name": {"type": "string", "pattern": "^[a-z]*$", "maxLength": 20},
                "at": {"type": "string", "format": "date-time", "nullable": True},
                "port": {"x-kubernetes-int-or-string": True},
                "ratio": {"type": "number", "exclusiveMinimum": True, "minimum": 0},
                "labels": {"type": "object", "additionalProperties": TEXT, "maxProperties": 5},
                "tags": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set", "maxItems": 8},
                "parts": {
                    "type": "array",
                    "maxItems": 8,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string", "maxLength": 9}, "count": WHOLE},
                    },
                },
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "template": {"type": "object", "x-kubernetes-embedded-resource": True,
                             "x-kubernetes-preserve-unknown-fields": True},
                "one": {"type": "object", "properties": {"a": WHOLE, "b": WHOLE},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            },
            "x-kubernetes-validations": [
                {"rule": "self.size < 50 || self.mode == 'fast'", "messageExpression": "'size ' + string(self.size)"},
                {"rule": "self.size >= oldSelf.size", "message": "size never shrinks"},
            ],
        },
        "status": {"type": "object", "properties": {"size": WHOLE, "selector": TEXT}},
    },
}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.fuzz.io"},
    "spec": {
        "group": "fuzz.io",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": WIDGET},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size",
                              "labelSelectorPath": ".status.selector"},
                },
                "selectableFields": [{"jsonPath": ".spec.mode"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            }
        ],
    },
}
# Deleting all of these ends the cluster, not the test.
SPARED = ("clusterroles", "clusterrolebindings", "/namespaces/{name}", "nodes", "customresourcedefinitions", "apiservices")


def connect(work):
    config = json.loads((work / "kubeconfig").read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    files = {
        "ca.crt": cluster["certificate-authority-data"],
        "admin.crt": user["client-certificate-data"],
        "admin.key": user["client-key-data"],
    }
    for name, encoded in files.items():
        (work / name).write_bytes(base64.b64decode(encoded))
    context = ssl.create_default_context(cafile=work / "ca.crt")
    context.load_cert_chain(work / "admin.crt", work / "admin.key")

    def call(path, body=None):
        request = urllib.request.Request(cluster["server"] + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, context=context) as answer:
            return json.load(answer)

    return cluster["server"], call


def narrowed(spec):
    """The schema, with parameters and bodies that have a chance to be accepted."""
    for path in list(spec["paths"]):
        operations = spec["paths"][path]
        if "/watch/" in path:
            del spec["paths"][path]
            continue
        if any(spared in path for spared in SPARED):
            operations.pop("delete", None)
        shared = operations.get("parameters", [])
        for operation in operations.values():
            if not isinstance(operation, dict):
                continue
            for parameter in operation.get("parameters", []) + shared:
                known = {"namespace": [NAMESPACE], "name": NAMES, "watch": [False]}
                if parameter.get("name") in known:
                    parameter["schema"] = {"enum": known[parameter["name"]]}
    for schema in spec.get("components", {}).get("schemas", {}).values():
        told = schema.get("x-kubernetes-group-version-kind", [])
        if len(told) != 1 or "properties" not in schema:
            continue
        group, version, kind = told[0]["group"], told[0]["version"], told[0]["kind"]
        api_version = f"{group}/{version}" if group else version
        for name, value in (("apiVersion", api_version), ("kind", kind)):
            if name in schema["properties"]:
                schema["properties"][name] = {"enum": [value]}
                schema.setdefault("required", [])
                if name not in schema["required"]:
                    schema["required"].append(name)
    return spec


def with_custom(call):
    """Makes the definition and waits until its group is published."""
    call("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITION)
    deadline = time.monotonic() + 30
    while "apis/fuzz.io/v1" not in call("/openapi/v3")["paths"]:
        if time.monotonic() > deadline:
            sys.exit("error: the custom group is not published after 30 s")
        time.sleep(0.2)


def requests(lines):
    """How many requests schemathesis says that it sent."""
    said = [re.search(r"([0-9,]+) generated", line) for line in lines]
    return sum(int(found.group(1).replace(",", "")) for found in said if found)


def main():
    work, examples, wanted = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    server, call = connect(work)
    call("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    with_custom(call)
    rows, failed = [], []
    for path in wanted or sorted(call("/openapi/v3")["paths"]):
        spec = narrowed(call(f"/openapi/v3/{path}"))
        if not spec["paths"]:
            continue
        file = work / "spec.json"
        file.write_text(json.dumps(spec))
        began = time.monotonic()
        done = subprocess.run(
            [
                str(work / "venv/bin/schemathesis"), "run", str(file), "--url", server,
                "--tls-verify", str(work / "ca.crt"),
                "--request-cert", str(work / "admin.crt"), "--request-cert-key", str(work / "admin.key"),
                "--checks", "no_server_error", "--phases", "coverage,fuzzing",
                "--max-examples", examples, "--request-timeout", "20", "--continue-on-failure",
                "--warnings", "off", "--no-color", "--output-truncate", "false", "--no-shrink",
            ],
            capture_output=True, text=True, check=False, cwd=work,
            env={**os.environ, "SCHEMATHESIS_HOOKS": pathlib.Path(__file__).stem,
                 "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        sent, seconds = requests(done.stdout.splitlines()), time.monotonic() - began
        rows.append((path, len(spec["paths"]), sent, seconds, done.returncode == 0))
        print(f"{path:<42} {len(spec['paths']):>5} {sent:>9} {seconds:>6.0f} s", flush=True)
        if done.returncode != 0 or sent == 0:
            failed.append(path)
            print(done.stdout, done.stderr, sep="\n", flush=True)
    print(f"{len(rows)} group versions, {sum(row[2] for row in rows)} requests, "
          f"{sum(row[3] for row in rows):.0f} s")
    if failed:
        sys.exit(f"error: a server error, no answer in 20 s, or no run, in {', '.join(failed)}")


def is_upstreams(code, text):
    return any(part in text for part in UPSTREAMS.get(code, ()))


@schemathesis.check
def no_server_error(ctx, response, case):
    assert response.status_code < 500 or is_upstreams(response.status_code, response.text), (
        f"{response.status_code}: {response.text[:500]}"
    )


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Whatever is neither `false` nor `0` asks for a watch, which would go on for half an hour."""
    query = case.query or {}
    for name in ("watch", "follow"):
        value = query.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if name in query and str(value).lower() not in ("false", "0"):
            query["timeoutSeconds"] = 1


if __name__ == "__main__":
    main()
