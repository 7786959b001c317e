//! Subresources that are more than a part of their object: one file each.

mod binding;
mod eviction;
mod finalize;
mod pod_parts;
mod scale;
mod token;

use machinery::Status;

use crate::answer::Answer;
use crate::request::{Request, Verb};
use crate::server::ApiServer;
use crate::status;

/// Does what a request asks of a subresource.
pub(crate) async fn dispatch(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let kind = request.kind;
    match (request.subresource.as_str(), request.verb) {
        ("binding", Verb::Create) if kind.id == "pods" => binding::create(server, request).await,
        ("eviction", Verb::Create) if kind.id == "pods" => eviction::create(server, request).await,
        ("ephemeralcontainers", _) if kind.id == "pods" => {
            pod_parts::serve(server, request, &pod_parts::EPHEMERAL_CONTAINERS).await
        }
        ("resize", _) if kind.id == "pods" => {
            pod_parts::serve(server, request, &pod_parts::RESIZE).await
        }
        ("finalize", Verb::Update) if kind.id == "namespaces" => {
            finalize::update(server, request).await
        }
        ("token", Verb::Create) if kind.id == "serviceaccounts" => {
            token::create(server, request).await
        }
        ("token", _) if kind.id == "serviceaccounts" => Err(status::method_not_allowed()),
        ("scale", Verb::Get) if kind.has_scale => scale::get(server, request).await,
        ("scale", Verb::Update) if kind.has_scale => scale::update(server, request).await,
        ("scale", Verb::Patch) if kind.has_scale => scale::patch(server, request).await,
        ("binding" | "eviction", _) if kind.id == "pods" => Err(status::method_not_allowed()),
        ("finalize", _) if kind.id == "namespaces" => Err(status::method_not_allowed()),
        ("scale", _) if kind.has_scale => Err(status::method_not_allowed()),
        _ => Err(status::no_such_path()),
    }
}

#[cfg(test)]
mod tests {
    use env::Sabotage;
    use futures::future::join_all;
    use http::Method;
    use serde_json::{Value, json};

    use crate::Config;
    use crate::testing::{DEPLOYMENTS, PODS, World, deployment, pod, text};

    fn target(node: &str) -> Value {
        json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": node}})
    }

    async fn post(world: &World, path: &str, body: Value) -> (u16, Value) {
        world.call(Method::POST, path, &body).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_bound_once() {
        let world = World::new().await;
        world.create(PODS, pod("a")).await;
        let path = format!("{PODS}/a/binding");
        let mut annotated = target("worker-1");
        annotated["metadata"]["annotations"] = json!({"by": "scheduler"});
        let answer = world.create(&path, annotated).await;
        assert_eq!(answer["status"], "Success");
        let bound = world.get(&format!("{PODS}/a")).await;
        assert_eq!(bound["spec"]["nodeName"], "worker-1");
        assert_eq!(bound["metadata"]["annotations"]["by"], "scheduler");
        let condition = &bound["status"]["conditions"][0];
        assert_eq!(
            (text(&condition["type"]), text(&condition["status"])),
            ("PodScheduled", "True")
        );
        for node in ["worker-1", "worker-2"] {
            let (code, answer) = post(&world, &path, target(node)).await;
            assert_eq!(code, 409);
            assert_eq!(
                text(&answer["message"]),
                "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to \
                 node \"worker-1\""
            );
        }
        assert_eq!(world.get(&format!("{PODS}/a")).await, bound);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_schedulers_exactly_one_binds() {
        let world = World::new().await;
        world.create(PODS, pod("a")).await;
        let path = "/api/v1/namespaces/default/bindings";
        let posts = (0..6).map(|at| post(&world, path, target(&format!("worker-{at}"))));
        let codes: Vec<_> = join_all(posts).await.into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
        assert!(codes.iter().all(|code| matches!(code, 201 | 409)));
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_bindings_are_refused() {
        let world = World::new().await;
        let mut body = pod("a");
        body["metadata"]["finalizers"] = json!(["a.b/c"]);
        world.create(PODS, body).await;
        let path = format!("{PODS}/a/binding");
        let mut other_uid = target("worker-1");
        other_uid["metadata"]["uid"] = "other".into();
        let mut renamed = target("worker-1");
        renamed["metadata"]["name"] = "b".into();
        for (body, code) in [
            (json!({"metadata": {"name": "a"}}), 422),
            (json!({"metadata": {"name": "a"}, "target": {"kind": "Pod", "name": "x"}}), 422),
            (json!({"kind": "Pod", "target": {"name": "x"}}), 400),
            (renamed, 400),
            (other_uid, 409),
        ] {
            assert_eq!(post(&world, &path, body.clone()).await.0, code, "{body}");
        }
        let (code, _) =
            post(&world, &format!("{PODS}/b/binding"), json!({"target": {"name": "x"}})).await;
        assert_eq!(code, 404);
        world.delete(&format!("{PODS}/a")).await;
        let (code, answer) = post(&world, &path, target("worker-1")).await;
        assert_eq!(code, 409);
        assert!(text(&answer["message"]).contains("is being deleted"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn sabotage_binds_twice() {
        let world = World::with(&[Sabotage::DoubleBind], Config::default()).await;
        world.create(PODS, pod("a")).await;
        for node in ["worker-1", "worker-2"] {
            world.create(&format!("{PODS}/a/binding"), target(node)).await;
            assert_eq!(world.get(&format!("{PODS}/a")).await["spec"]["nodeName"], node);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_eviction_deletes_with_the_pods_grace() {
        let world = World::new().await;
        world.create(PODS, pod("a")).await;
        world.create(&format!("{PODS}/a/binding"), target("worker-1")).await;
        let path = format!("{PODS}/a/eviction");
        let eviction = |options: Value| {
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"},
                "deleteOptions": options})
        };
        let dry = eviction(json!({"dryRun": ["All"]}));
        assert_eq!(post(&world, &path, dry).await.0, 201);
        let wrong = eviction(json!({"preconditions": {"uid": "other"}}));
        assert_eq!(post(&world, &path, wrong).await.0, 409);
        let before = world.get(&format!("{PODS}/a")).await;
        assert_eq!(before["metadata"].get("deletionTimestamp"), None);
        let (code, answer) = post(&world, &path, eviction(Value::Null)).await;
        assert_eq!((code, text(&answer["status"])), (201, "Success"));
        let going = world.get(&format!("{PODS}/a")).await;
        assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
        let (code, _) = post(&world, &format!("{PODS}/b/eviction"), json!({})).await;
        assert_eq!(code, 404);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scale_is_read_replaced_and_patched() {
        let world = World::new().await;
        world.create(DEPLOYMENTS, deployment("web")).await;
        let path = format!("{DEPLOYMENTS}/web/scale");
        let mut scale = world.get(&path).await;
        assert_eq!((text(&scale["kind"]), text(&scale["apiVersion"])), ("Scale", "autoscaling/v1"));
        assert_eq!(scale["spec"]["replicas"], 2);
        assert_eq!(scale["status"]["selector"], "app=web");
        let stale = scale.clone();
        scale["spec"]["replicas"] = 5.into();
        let after = world.update(&path, &scale).await;
        assert_eq!(after["spec"]["replicas"], 5);
        assert_eq!(world.call(Method::PUT, &path, &stale).await.0, 409);
        let after = world.patch(&path, json!({"spec": {"replicas": 0}})).await;
        assert_eq!(after["spec"]["replicas"], 0);
        let deployment = world.get(&format!("{DEPLOYMENTS}/web")).await;
        assert_eq!(deployment["spec"]["replicas"], 0);
        assert_eq!(deployment["metadata"]["generation"], 3);
        let (code, answer) =
            world.call(Method::PATCH, &path, &json!({"spec": {"replicas": -1}})).await;
        assert_eq!(code, 422, "{answer}");
        for path in [format!("{PODS}/a/scale"), format!("{PODS}/a/frob")] {
            assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, 404);
        }
    }
    #[tokio::test(start_paused = true)]
    async fn every_kind_of_set_has_a_scale() {
        let world = World::new().await;
        let template = deployment("web")["spec"]["template"].clone();
        for (api, kind, plural, selector) in [
            ("api/v1", "ReplicationController", "replicationcontrollers", json!({"app": "web"})),
            ("apis/apps/v1", "StatefulSet", "statefulsets", json!({"matchLabels": {"app": "web"}})),
        ] {
            let path = format!("/{api}/namespaces/default/{plural}");
            let version = api.split_once('/').unwrap().1;
            let body = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"},
                "spec": {"replicas": 2, "selector": selector, "template": template}});
            world.create(&path, body).await;
            let scale = format!("{path}/web/scale");
            assert_eq!(world.get(&scale).await["status"]["selector"], "app=web", "{kind}");
            world.patch(&scale, json!({"spec": {"replicas": 5}})).await;
            let after = world.get(&format!("{path}/web")).await;
            assert_eq!(after["spec"]["replicas"], 5);
            assert_eq!(after["metadata"]["generation"], 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_made_from_a_cron_job() {
        let world = World::new().await;
        let jobs = "/apis/batch/v1/namespaces/default/jobs";
        let crons = "/apis/batch/v1/namespaces/default/cronjobs";
        let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report"},
            "spec": {"schedule": "@daily", "jobTemplate": {"metadata": {"labels": {"a": "b"}},
                "spec": {"template": {"spec": {"restartPolicy": "OnFailure",
                    "containers": [{"name": "main", "image": "web:1"}]}}}}}});
        let cron = world.create(crons, cron).await;
        // What `kubectl create job now --from=cronjob/report` sends.
        let template = &cron["spec"]["jobTemplate"];
        let job = json!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": "now", "labels": template["metadata"]["labels"],
                "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob",
                    "name": "report", "uid": cron["metadata"]["uid"], "controller": true}]},
            "spec": template["spec"]});
        let job = world.create(jobs, job).await;
        let uid = &job["metadata"]["uid"];
        let selected = &job["spec"]["selector"]["matchLabels"];
        assert_eq!(selected["batch.kubernetes.io/controller-uid"], *uid);
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "now");
        assert_eq!(job["status"], json!({}));
        // A Job that is deleted without a word of its pods leaves them alone, as upstream.
        let mut held = job.clone();
        held["metadata"]["finalizers"] = json!(["a.b/c"]);
        world.update(&format!("{jobs}/now"), &held).await;
        world.delete(&format!("{jobs}/now")).await;
        let going = world.get(&format!("{jobs}/now")).await;
        assert_eq!(going["metadata"]["finalizers"], json!(["a.b/c", "orphan"]));
    }
}
