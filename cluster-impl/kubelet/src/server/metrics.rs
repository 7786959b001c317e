//! `/metrics` and `/metrics/resource`, in the text form that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use env::Timestamp;
use http::{HeaderValue, Response, header};
use machinery::exposition::MEDIA_TYPE;

use super::{Body, KubeletServer, Refusal, usage};
use crate::access::Usage;
use crate::runtime::PodId;

fn page(text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
}

/// What the kubelet itself does.
pub(super) async fn own(server: &Arc<KubeletServer>) -> Result<Response<Body>, Refusal> {
    let all = server.runtime.all().await?;
    let running = |is_container: bool| {
        all.iter()
            .filter(|one| one.is_running() && one.container.is_empty() != is_container)
            .count()
    };
    let mut text = String::new();
    head(&mut text, "kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    let _ = writeln!(text, "kubelet_node_name{{node=\"{}\"}} 1", server.config.node_name);
    head(
        &mut text,
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
    );
    let _ = writeln!(
        text,
        "kubelet_running_containers{{container_state=\"running\"}} {}",
        running(true)
    );
    let help = "Number of pods that have a running pod sandbox";
    head(&mut text, "kubelet_running_pods", "gauge", help);
    let _ = writeln!(text, "kubelet_running_pods {}", running(false));
    Ok(page(text))
}

/// What the containers use, their pods, and the node: all of them together.
pub(super) async fn resource(server: &Arc<KubeletServer>) -> Result<Response<Body>, Refusal> {
    let all = server.runtime.usage().await?;
    let mut pods: BTreeMap<&PodId, (i64, u64, u64)> = BTreeMap::new();
    let mut node = (0, 0, 0);
    for one in &all {
        let (cpu_ns, bytes) =
            (one.cpu_ns.unwrap_or_default(), one.working_set_bytes.unwrap_or_default());
        for total in [pods.entry(&one.pod).or_default(), &mut node] {
            *total = (one.at_ns.max(total.0), total.1 + cpu_ns, total.2 + bytes);
        }
    }
    let mut text = String::new();
    let container = |one: &Usage| {
        let PodId { namespace, name, .. } = &one.pod;
        format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{name}\"}}", one.container)
    };
    let pod = |id: &PodId| format!("{{namespace=\"{}\",pod=\"{}\"}}", id.namespace, id.name);
    let help = "Cumulative cpu time consumed by the container in core-seconds";
    let told = all.iter().filter_map(|one| Some((container(one), cores(one.cpu_ns?), one.at_ns)));
    family(&mut text, ("container_cpu_usage_seconds_total", "counter", help), told);
    let help = "Current working set of the container in bytes";
    let bytes = |one: &Usage| one.working_set_bytes.map(|bytes| bytes.to_string());
    let told = all.iter().filter_map(|one| Some((container(one), bytes(one)?, one.at_ns)));
    family(&mut text, ("container_memory_working_set_bytes", "gauge", help), told);
    let help = "Start time of the container since unix epoch in seconds";
    let told = all.iter().filter_map(|one| {
        let at: Timestamp = usage::start(server, one).parse().ok()?;
        let at = cores(u64::try_from(at.as_nanosecond()).ok()?);
        Some((container(one), at, one.at_ns))
    });
    family(&mut text, ("container_start_time_seconds", "gauge", help), told);
    let help = "Cumulative cpu time consumed by the node in core-seconds";
    let told = (!all.is_empty()).then(|| (String::new(), cores(node.1), node.0));
    family(&mut text, ("node_cpu_usage_seconds_total", "counter", help), told);
    let help = "Current working set of the node in bytes";
    let told = (!all.is_empty()).then(|| (String::new(), node.2.to_string(), node.0));
    family(&mut text, ("node_memory_working_set_bytes", "gauge", help), told);
    let help = "Cumulative cpu time consumed by the pod in core-seconds";
    let told = pods.iter().map(|(id, total)| (pod(id), cores(total.1), total.0));
    family(&mut text, ("pod_cpu_usage_seconds_total", "counter", help), told);
    let help = "Current working set of the pod in bytes";
    let told = pods.iter().map(|(id, total)| (pod(id), total.2.to_string(), total.0));
    family(&mut text, ("pod_memory_working_set_bytes", "gauge", help), told);
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    head(&mut text, "resource_scrape_error", "gauge", help);
    let _ = writeln!(text, "resource_scrape_error 0");
    Ok(page(text))
}

/// Nanoseconds as seconds.
fn cores(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// Writes a family whose series have their own times.
fn family(
    text: &mut String,
    (name, kind, help): (&str, &str, &str),
    series: impl IntoIterator<Item = (String, String, i64)>,
) {
    let mut series = series.into_iter().peekable();
    if series.peek().is_some() {
        head(text, name, kind, help);
    }
    for (labels, value, at_ns) in series {
        let _ = writeln!(text, "{name}{labels} {value} {}", at_ns / 1_000_000);
    }
}
