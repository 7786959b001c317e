//! The names, types, labels and buckets that others' dashboards rely on, and what comes to stand in them.

use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::testing::{MAPS, World, config_map};

/// Every family: name, type, labels, buckets, as Kubernetes 1.33 has them.
const TABLE: &str = "\
apiserver_admission_controller_admission_duration_seconds histogram [name operation rejected type] 0.005 0.025 0.1 0.5 1 2.5
apiserver_admission_step_admission_duration_seconds histogram [operation rejected type] 0.005 0.025 0.1 0.5 1 2.5
apiserver_admission_webhook_admission_duration_seconds histogram [name operation rejected type] 0.005 0.025 0.1 0.5 1 2.5 10 25
apiserver_admission_webhook_fail_open_count counter [name type]
apiserver_admission_webhook_rejection_count counter [error_type name operation rejection_code type]
apiserver_audit_error_total counter [plugin]
apiserver_audit_event_total counter []
apiserver_audit_level_total counter [level]
apiserver_longrunning_requests gauge [component group resource scope subresource verb version]
apiserver_request_duration_seconds histogram [component dry_run group resource scope subresource verb version] 0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60
apiserver_request_total counter [code component dry_run group resource scope subresource verb version]
apiserver_response_sizes histogram [component group resource scope subresource verb version] 1000 10000 100000 1e+06 1e+07 1e+08 1e+09
apiserver_watch_cache_events_dispatched_total counter [resource]
apiserver_watch_cache_events_received_total counter [resource]
apiserver_watch_cache_initializations_total counter [resource]
apiserver_watch_events_sizes histogram [group kind version] 1024 2048 4096 8192 16384 32768 65536 131072
apiserver_watch_events_total counter [group kind version]
authenticated_user_requests counter [username]
authentication_attempts counter [result]
authentication_duration_seconds histogram [result] 0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384
authorization_attempts_total counter [result]
authorization_duration_seconds histogram [result] 0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384
etcd_request_duration_seconds histogram [operation type] 0.005 0.025 0.05 0.1 0.2 0.4 0.6 0.8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60
etcd_request_errors_total counter [operation type]
etcd_requests_total counter [operation type]
kubernetes_healthcheck gauge [name type]
kubernetes_healthchecks_total counter [name status type]
apiserver_current_inflight_requests gauge [request_kind]
apiserver_storage_objects gauge [resource]
apiserver_watch_cache_resource_version gauge [resource]
kubernetes_build_info gauge [build_date compiler git_commit git_tree_state git_version go_version major minor platform]
";

#[tokio::test(start_paused = true)]
async fn families_are_upstreams() {
    let world = World::new().await;
    let server = &world.server;
    let mut found = String::new();
    for family in server.metrics.families() {
        found.push_str(&format!("{family}\n"));
    }
    let gathered = [
        gathered::inflight(server),
        gathered::objects(server).await,
        gathered::revisions(server),
        gathered::build_info(),
    ];
    for family in &gathered {
        found.push_str(&format!("{family}\n"));
    }
    assert_eq!(found, TABLE);
    for family in server.metrics.families().into_iter().chain(&gathered) {
        assert!(family.labels.is_sorted(), "{family}");
        assert!(family.help.starts_with(['[']), "{family} says how stable it is");
    }
}

/// What `/metrics` answers.
async fn told(world: &World) -> String {
    let response = world.send(Method::GET, "/metrics", &[], Default::default()).await;
    assert_eq!(response.headers()["content-type"], machinery::exposition::MEDIA_TYPE);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The figure of one series; `None` if it is not told.
fn figure(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(is_figure))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn is_figure(rest: &str) -> bool {
    rest.starts_with(' ')
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_counted() {
    let world = World::new().await;
    let mut watch = world.watch(&format!("{MAPS}?watch=1")).await;
    world.create(MAPS, config_map("a", "1")).await;
    world.create(&format!("{MAPS}?dryRun=All"), config_map("b", "1")).await;
    watch.next().await.unwrap();
    let apply = [("content-type", "application/apply-patch+yaml")];
    let body = config_map("a", "2");
    let path = format!("{MAPS}/a?fieldManager=me&force=true");
    assert_eq!(world.call_with(Method::PATCH, &path, &apply, &body).await.0, 200);
    let jane = User::new("jane@example.com", &[]);
    assert_eq!(world.call_as(&User::anonymous(), Method::GET, MAPS, &Value::Null).await.0, 401);
    let _ = world.call_as(&jane, Method::GET, MAPS, &Value::Null).await;
    let text = told(&world).await;
    let map = |rest: &str| {
        format!("component=\"apiserver\",{rest},version=\"v1\"}}")
            .replace("MAP", "group=\"\",resource=\"configmaps\"")
    };
    let created = map("dry_run=\"\",MAP,scope=\"resource\",subresource=\"\",verb=\"POST\"");
    let tried = map("dry_run=\"All\",MAP,scope=\"resource\",subresource=\"\",verb=\"POST\"");
    let applied = map("dry_run=\"\",MAP,scope=\"resource\",subresource=\"\",verb=\"APPLY\"");
    let watched = map("MAP,scope=\"namespace\",subresource=\"\",verb=\"WATCH\"");
    let kind = "group=\"\",kind=\"ConfigMap\",version=\"v1\"";
    for (series, expected) in [
        (format!("apiserver_request_total{{code=\"201\",{created}"), 1.0),
        (format!("apiserver_request_total{{code=\"201\",{tried}"), 1.0),
        (format!("apiserver_request_duration_seconds_count{{{applied}"), 1.0),
        (format!("apiserver_longrunning_requests{{{watched}"), 1.0),
        (format!("apiserver_watch_events_total{{{kind}}}"), 1.0),
        (format!("apiserver_watch_events_sizes_count{{{kind}}}"), 1.0),
        ("apiserver_watch_cache_events_received_total{resource=\"configmaps\"}".into(), 2.0),
        ("apiserver_watch_cache_initializations_total{resource=\"configmaps\"}".into(), 1.0),
        ("apiserver_storage_objects{resource=\"configmaps\"}".into(), 1.0),
        ("apiserver_storage_objects{resource=\"pods\"}".into(), 0.0),
        ("apiserver_current_inflight_requests{request_kind=\"readOnly\"}".into(), 1.0),
        ("apiserver_current_inflight_requests{request_kind=\"mutating\"}".into(), 0.0),
        ("authentication_attempts{result=\"failure\"}".into(), 1.0),
        ("authenticated_user_requests{username=\"email_id\"}".into(), 1.0),
        ("etcd_requests_total{operation=\"create\",type=\"configmaps\"}".into(), 1.0),
    ] {
        assert_eq!(figure(&text, &series), Some(expected), "{series}\n{text}");
    }
    assert!(figure(&text, "authorization_attempts_total{result=\"error\"}").is_some(), "{text}");
    let plugin = "name=\"ResourceQuota\",operation=\"CREATE\",rejected=\"false\",type=\"validate\"";
    let series =
        format!("apiserver_admission_controller_admission_duration_seconds_count{{{plugin}}}");
    assert!(figure(&text, &series).is_some_and(|count| count >= 2.0), "{text}");
    drop(watch);
    let text = told(&world).await;
    let series = format!("apiserver_longrunning_requests{{{watched}");
    assert_eq!(figure(&text, &series), Some(0.0));
    let ended = map("dry_run=\"\",MAP,scope=\"namespace\",subresource=\"\",verb=\"WATCH\"");
    let series = format!("apiserver_request_total{{code=\"200\",{ended}");
    assert_eq!(figure(&text, &series), Some(1.0), "a watch is counted at its end");
}

/// Every line of the text form has its place: a head before its series, each series once.
#[tokio::test(start_paused = true)]
async fn the_text_is_well_formed() {
    let world = World::new().await;
    world.create(MAPS, config_map("a", "1")).await;
    let text = told(&world).await;
    let mut seen = std::collections::BTreeSet::new();
    let mut head = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            head = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(head.clone()), "{head} comes twice");
            continue;
        }
        if line.starts_with("# TYPE ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.starts_with(&head), "{line} under {head}");
        assert!(seen.insert(series.to_owned()), "{series} comes twice");
    }
    assert!(text.ends_with('\n'));
}
