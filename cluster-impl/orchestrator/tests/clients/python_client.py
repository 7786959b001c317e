"""What programs do with Python's client, in parts; each says that it is done, or fails.

Uses the kubeconfig of KUBECONFIG and the namespace NS: python_client.py PART
"""

import os
import sys
import threading
import time
import uuid

from kubernetes import client, config, dynamic, stream
from kubernetes import watch as watches
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream.ws_client import ERROR_CHANNEL

NS = os.environ["NS"]


def deployment(name, replicas=1):
    labels = {"app": name}
    container = client.V1Container(name="main", image="nginx:1.27", image_pull_policy="IfNotPresent")
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(
        replicas=replicas, selector=client.V1LabelSelector(match_labels=labels), template=template
    )
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=name, labels=labels), spec=spec)


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def refused(code, call, *args, **kwargs):
    """The refusal that a call must meet."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, error
        return error
    raise AssertionError(f"{call.__name__} should be refused with {code}")


def until(what, holds, seconds=60):
    """Looks again until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what} does not come"
        time.sleep(0.05)


def objects():
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    made = apps.create_namespaced_deployment(NS, deployment("web", 2), field_manager="python")
    assert made.metadata.uid and made.spec.strategy.type == "RollingUpdate"
    read = apps.read_namespaced_deployment("web", NS)
    assert "python" in [owner.manager for owner in read.metadata.managed_fields]

    def ready():
        return apps.read_namespaced_deployment_status("web", NS).status.ready_replicas == 2

    until("the deployment", ready)
    pods = core.list_namespaced_pod(NS, label_selector="app=web", field_selector="status.phase=Running")
    assert len(pods.items) == 2 and pods.items[0].status.pod_ip
    scale = apps.read_namespaced_deployment_scale("web", NS)
    scale.spec.replicas = 1
    assert apps.replace_namespaced_deployment_scale("web", NS, scale).spec.replicas == 1
    read.spec.replicas = 3
    refused(409, apps.replace_namespaced_deployment, "web", NS, read)
    refused(409, apps.create_namespaced_deployment, NS, deployment("web"))
    refused(404, apps.read_namespaced_deployment, "none", NS)
    core.create_namespaced_config_map(NS, config_map("dry", a="b"), dry_run="All")
    refused(404, core.read_namespaced_config_map, "dry", NS)
    core.create_namespaced_secret(NS, client.V1Secret(
        metadata=client.V1ObjectMeta(name="s"), string_data={"key": "value"}))
    assert core.read_namespaced_secret("s", NS).data == {"key": "dmFsdWU="}
    for number in range(5):
        core.create_namespaced_config_map(NS, config_map(f"map-{number}", n=str(number)))
    page = core.list_namespaced_config_map(NS, limit=2)
    names = [item.metadata.name for item in page.items]
    while page.metadata._continue:
        page = core.list_namespaced_config_map(NS, limit=2, _continue=page.metadata._continue)
        names += [item.metadata.name for item in page.items]
    assert [name for name in names if name.startswith("map-")] == [f"map-{n}" for n in range(5)]
    core.delete_collection_namespaced_config_map(NS, field_selector="metadata.name!=map-0")
    names = [item.metadata.name for item in core.list_namespaced_config_map(NS).items]
    assert "map-0" in names and "map-1" not in names, names
    apps.delete_namespaced_deployment("web", NS, propagation_policy="Foreground")
    until("the deletion", lambda: not apps.list_namespaced_deployment(NS).items)
    assert not apps.list_namespaced_replica_set(NS).items
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
        resource_attributes=client.V1ResourceAttributes(namespace=NS, verb="get", resource="pods")))
    assert client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed
    pod = core.create_namespaced_pod(NS, client.V1Pod(
        metadata=client.V1ObjectMeta(name="one"),
        spec=client.V1PodSpec(containers=[client.V1Container(name="main", image="nginx:1.27")])))
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=pod.metadata.name, namespace=NS))
    core.create_namespaced_pod_eviction("one", NS, eviction)
    assert int(client.VersionApi().get_code().minor.rstrip("+")) > 0


def patches():
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    apps.create_namespaced_deployment(NS, deployment("web", 0))
    side = {"name": "side", "image": "side:1"}
    strategic = {"spec": {"template": {"spec": {"containers": [side]}}}}
    told = apps.patch_namespaced_deployment(
        "web", NS, strategic, _content_type="application/strategic-merge-patch+json")
    assert {one.name for one in told.spec.template.spec.containers} == {"main", "side"}
    merge = {"spec": {"template": {"spec": {"containers": [side]}}}}
    told = apps.patch_namespaced_deployment(
        "web", NS, merge, _content_type="application/merge-patch+json")
    assert [one.name for one in told.spec.template.spec.containers] == ["side"]
    steps = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "side:2"}]
    told = apps.patch_namespaced_deployment("web", NS, steps)
    assert told.spec.template.spec.containers[0].image == "side:2"

    def apply(value, **more):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": value}}
        return core.patch_namespaced_config_map(
            "a", NS, body, _content_type="application/apply-patch+yaml", **more)

    assert apply("1", field_manager="one").data == {"key": "1"}
    error = refused(409, apply, "2", field_manager="two")
    assert "conflict with \\\"one\\\"" in error.body, error.body
    told = apply("2", field_manager="two", force=True)
    assert [owner.manager for owner in told.metadata.managed_fields] == ["two"]
    status = {"status": {"conditions": [{"type": "Odd", "status": "True"}]}}
    told = apps.patch_namespaced_deployment_status("web", NS, status)
    assert "Odd" in [one.type for one in told.status.conditions]


def watch():
    core = client.CoreV1Api()
    core.create_namespaced_config_map(NS, config_map("a", n="0"))
    listed = core.list_namespaced_config_map(NS)
    since = listed.metadata.resource_version
    seen = []

    def change():
        for number in range(1, 4):
            core.patch_namespaced_config_map("a", NS, {"data": {"n": str(number)}})
        core.delete_namespaced_config_map("a", NS)

    changing = threading.Thread(target=change)
    changing.start()
    # Each stream is short, so that the client must take up where it was.
    watcher = watches.Watch()
    only = {"field_selector": "metadata.name=a", "timeout_seconds": 1}
    end = time.monotonic() + 60
    while "DELETED" not in [kind for kind, _ in seen] and time.monotonic() < end:
        for event in watcher.stream(core.list_namespaced_config_map, NS, resource_version=since, **only):
            seen.append((event["type"], (event["object"].data or {}).get("n")))
            since = event["object"].metadata.resource_version
            if len(seen) % 2 == 0:
                watcher.stop()
    changing.join()
    assert seen == [("MODIFIED", "1"), ("MODIFIED", "2"), ("MODIFIED", "3"), ("DELETED", "3")], seen
    # From the beginning the client begins with what there is.
    core.create_namespaced_config_map(NS, config_map("b"))
    first = next(watches.Watch().stream(
        core.list_namespaced_config_map, NS, field_selector="metadata.name=b", timeout_seconds=30))
    assert first["type"] == "ADDED" and first["object"].metadata.name == "b"


def definition(group):
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"boats.{group}"},
        "spec": {"group": group, "scope": "Namespaced",
                 "names": {"plural": "boats", "kind": "Boat", "singular": "boat"},
                 "versions": [{"name": "v1", "served": True, "storage": True,
                               "schema": {"openAPIV3Schema": schema},
                               "subresources": {"status": {}, "scale": {
                                   "specReplicasPath": ".spec.size",
                                   "statusReplicasPath": ".status.size"}}}]}}


def defined(group):
    """A kind of this run alone, as soon as it is served."""
    api = client.ApiextensionsV1Api()
    api.create_custom_resource_definition(definition(group))

    def established():
        status = api.read_custom_resource_definition(f"boats.{group}").status
        return any(one.type == "Established" and one.status == "True" for one in status.conditions or [])

    until("the kind", established)
    return api


def custom_objects():
    group = f"{uuid.uuid4().hex[:8]}.example.com"
    api = defined(group)
    boats = client.CustomObjectsApi()
    at = (group, "v1", NS, "boats")
    boat = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "one"}, "spec": {"size": 2}}
    boats.create_namespaced_custom_object(*at, boat)
    refused(422, boats.create_namespaced_custom_object, *at,
            {**boat, "metadata": {"name": "two"}, "spec": {"size": 10}})
    told = boats.patch_namespaced_custom_object(*at, "one", {"spec": {"size": 3}})
    assert told["spec"]["size"] == 3
    told = boats.patch_namespaced_custom_object_status(*at, "one", {"status": {"size": 1}, "spec": {"size": 5}})
    assert (told["spec"]["size"], told["status"]["size"]) == (3, 1)
    scale = boats.get_namespaced_custom_object_scale(*at, "one")
    assert scale["spec"]["replicas"] == 3 and scale["status"]["replicas"] == 1
    boats.patch_namespaced_custom_object_scale(*at, "one", {"spec": {"replicas": 4}})
    listed = boats.list_namespaced_custom_object(*at)
    assert listed["kind"] == "BoatList" and listed["items"][0]["spec"]["size"] == 4
    stream_of = watches.Watch().stream(boats.list_namespaced_custom_object, *at, timeout_seconds=30)
    assert next(stream_of)["object"]["metadata"]["name"] == "one"
    boats.delete_collection_namespaced_custom_object(*at)
    assert not boats.list_namespaced_custom_object(*at)["items"]
    api.delete_custom_resource_definition(f"boats.{group}")


def dynamic_client():
    return dynamic.DynamicClient(client.ApiClient())


def dynamic_part():
    cluster = dynamic_client()
    maps = cluster.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "1"}}
    assert maps.create(body=body, namespace=NS).data.key == "1"
    assert maps.get(name="a", namespace=NS).metadata.name == "a"
    maps.patch(name="a", namespace=NS, body={"data": {"key": "2"}}, content_type="application/merge-patch+json")
    told = maps.server_side_apply(
        name="a", namespace=NS, body={**body, "data": {"more": "x"}}, field_manager="python")
    assert told.data.to_dict() == {"key": "2", "more": "x"}
    for event in maps.watch(namespace=NS, field_selector="metadata.name=a", timeout=10):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "a")
        break
    deployments = cluster.resources.get(api_version="apps/v1", kind="Deployment")
    web = client.ApiClient().sanitize_for_serialization(deployment("web", 1))
    deployments.create(body={"apiVersion": "apps/v1", "kind": "Deployment", **web}, namespace=NS)
    told = deployments.scale.patch(
        name="web", namespace=NS, body={"spec": {"replicas": 2}}, content_type="application/merge-patch+json")
    assert told.spec.replicas == 2
    group = f"{uuid.uuid4().hex[:8]}.example.com"
    api = defined(group)
    boats = dynamic_client().resources.get(api_version=f"{group}/v1", kind="Boat")
    boat = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "one"}, "spec": {"size": 2}}
    boats.create(body=boat, namespace=NS)
    assert boats.get(namespace=NS).items[0].spec.size == 2
    boats.delete(name="one", namespace=NS)
    api.delete_custom_resource_definition(f"boats.{group}")
    maps.delete(name="a", namespace=NS)
    refused(404, maps.get, name="a", namespace=NS)


def leader_election():
    for lock in (LeaseLock, ConfigMapLock):
        led = threading.Event()
        held = lock("lead", NS, "one")
        settings = electionconfig.Config(
            held, lease_duration=3, renew_deadline=2, retry_period=1, onstarted_leading=led.set,
            onstopped_leading=lambda: None)
        threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()
        assert led.wait(30), lock.__name__
        found, record = lock("lead", NS, "two").get("lead", NS)
        assert found and record.holder_identity == "one", record


def pod(name, command=None):
    borrowed = [] if os.environ.get("SHAKEDOWN_TEST_IMAGE") else ["usr", "lib", "lib64"]
    container = client.V1Container(
        name="main", image=os.environ.get("SHAKEDOWN_TEST_IMAGE", "nginx:1.27"), command=command,
        image_pull_policy="IfNotPresent", env=[client.V1EnvVar(name="PATH", value="/usr/bin:/bin")],
        volume_mounts=[client.V1VolumeMount(name=one, mount_path=f"/{one}") for one in borrowed])
    volumes = [client.V1Volume(name=one, host_path=client.V1HostPathVolumeSource(path=f"/{one}"))
               for one in borrowed]
    core = client.CoreV1Api()
    core.create_namespaced_pod(NS, client.V1Pod(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1PodSpec(containers=[container], volumes=volumes, termination_grace_period_seconds=1)))
    until("the pod", lambda: core.read_namespaced_pod(name, NS).status.phase == "Running", 120)


def streams():
    pod("web")
    core = client.CoreV1Api()
    call = core.connect_get_namespaced_pod_exec
    told = stream.stream(call, "web", NS, command=["sh", "-c", "echo out; echo err >&2"],
                         stderr=False, stdin=False, stdout=True, tty=False)
    assert told == "out\n", told
    talk = stream.stream(call, "web", NS, command=["sh", "-c", "read line; echo heard $line; exit 7"],
                         stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
    talk.write_stdin("you\n")
    talk.run_forever(timeout=30)
    assert talk.read_stdout() == "heard you\n" and talk.returncode == 7, talk.returncode
    forward = stream.portforward(core.connect_get_namespaced_pod_portforward, "web", NS, ports="80")
    socket = forward.socket(80)
    socket.setblocking(True)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    assert socket.recv(64).startswith(b"HTTP/1.1 ")
    assert isinstance(core.read_namespaced_pod_log("web", NS), str)


def no_streams():
    """Containers that are only played refuse streams, and say so."""
    core = client.CoreV1Api()
    core.create_namespaced_pod(NS, client.V1Pod(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1PodSpec(containers=[client.V1Container(name="main", image="nginx:1.27")])))
    until("the pod", lambda: core.read_namespaced_pod("web", NS).status.phase == "Running")
    told = stream.stream(core.connect_get_namespaced_pod_exec, "web", NS, command=["true"],
                         stderr=True, stdin=False, stdout=True, tty=False, _preload_content=False)
    told.run_forever(timeout=30)
    assert "simulated container" in told.read_channel(ERROR_CHANNEL)
    assert core.read_namespaced_pod_log("web", NS)


PARTS = {
    "custom_objects": custom_objects,
    "dynamic": dynamic_part,
    "leader_election": leader_election,
    "no_streams": no_streams,
    "objects": objects,
    "patches": patches,
    "streams": streams,
    "watch": watch,
}

if __name__ == "__main__":
    config.load_kube_config()
    PARTS[sys.argv[1]]()
    print(f"{sys.argv[1]}: done", flush=True)
    # Threads of elections go on for ever.
    os._exit(0)
