"""A small operator: a Fleet has a Deployment with as many replicas as it has ships."""

import os

import kopf
import kubernetes

GROUP = f"{os.environ['NS']}.example.com"


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    kubernetes.config.load_kube_config()
    settings.posting.enabled = True


def deployment(name, ships):
    labels = {"fleet": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "ship", "image": "nginx:1.27"}]},
    }
    return {
        "metadata": {"name": name},
        "spec": {"replicas": ships, "selector": {"matchLabels": labels}, "template": template},
    }


@kopf.on.create(GROUP, "v1", "fleets")
def made(name, namespace, spec, **_):
    body = deployment(name, spec["ships"])
    kopf.adopt(body)
    kubernetes.client.AppsV1Api().create_namespaced_deployment(namespace, body)
    return {"ships": spec["ships"]}


@kopf.on.field(GROUP, "v1", "fleets", field="spec.ships", old=kopf.PRESENT)
def changed(name, namespace, new, **_):
    body = {"spec": {"replicas": new}}
    kubernetes.client.AppsV1Api().patch_namespaced_deployment(name, namespace, body)


@kopf.on.delete(GROUP, "v1", "fleets")
def sunk(namespace, **_):
    body = {"metadata": {"name": "sunk"}}
    kubernetes.client.CoreV1Api().create_namespaced_config_map(namespace, body)
