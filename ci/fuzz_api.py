"""Runs schemathesis over each group version that a cluster publishes; called by ci/fuzz-api.

The published schema is narrowed so that requests reach the server's core: one namespace, few names, the
right apiVersion and kind. What the cluster itself lives on (its own namespaces, its roles) is left out.
"""

import base64
import json
import pathlib
import ssl
import subprocess
import sys
import urllib.request

NAMESPACE = "fuzz"
NAMES = ["a", "b", "x-1"]
# Deleting all of these ends the cluster, not the test.
SPARED = ("clusterroles", "clusterrolebindings", "/namespaces/{name}", "nodes")


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
                known = {"namespace": [NAMESPACE], "name": NAMES, "watch": [False], "timeoutSeconds": [1]}
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


def main():
    work, examples, wanted = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    server, call = connect(work)
    call("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    failed = []
    for path in wanted or sorted(call("/openapi/v3")["paths"]):
        spec = narrowed(call(f"/openapi/v3/{path}"))
        if not spec["paths"]:
            continue
        file = work / "spec.json"
        file.write_text(json.dumps(spec))
        print(f"== {path}: {len(spec['paths'])} paths", flush=True)
        done = subprocess.run(
            [
                str(work / "venv/bin/schemathesis"), "run", str(file), "--url", server,
                "--tls-verify", str(work / "ca.crt"),
                "--request-cert", str(work / "admin.crt"), "--request-cert-key", str(work / "admin.key"),
                "--checks", "not_a_server_error", "--phases", "coverage,fuzzing",
                "--max-examples", examples, "--request-timeout", "20", "--continue-on-failure",
                "--warnings", "off", "--no-color", "--output-truncate", "false",
            ],
            capture_output=True, text=True, check=False,
        )
        lines = done.stdout.splitlines()
        cases = [line.strip() for line in lines if "generated" in line]
        print("   ", *cases or ["no cases"], flush=True)
        if done.returncode != 0:
            failed.append(path)
            print(done.stdout, done.stderr, sep="\n", flush=True)
    if failed:
        sys.exit(f"error: a server error, or no run, in {', '.join(failed)}")


main()
