//! `/metrics` and `/metrics/resource`, in the text form that Prometheus reads.

use std::fmt::Write;
use std::sync::Arc;

use http::{HeaderValue, Response, header};

use super::{Body, KubeletServer, Refusal};

fn page(text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
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
        all.iter().filter(|one| one.running && one.container.is_empty() != is_container).count()
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

/// What the containers use.
pub(super) async fn resource(server: &Arc<KubeletServer>) -> Result<Response<Body>, Refusal> {
    let usage = server.runtime.usage().await?;
    let mut text = String::new();
    let help = "Cumulative cpu time consumed by the container in core-seconds";
    head(&mut text, "container_cpu_usage_seconds_total", "counter", help);
    let labels = |one: &crate::access::Usage| {
        format!(
            "container=\"{}\",namespace=\"{}\",pod=\"{}\"",
            one.container, one.pod.namespace, one.pod.name
        )
    };
    for one in &usage {
        if let Some(cpu_ns) = one.cpu_ns {
            let (s, rest_ns) = (cpu_ns / 1_000_000_000, cpu_ns % 1_000_000_000);
            let (labels, at_ms) = (labels(one), one.at_ns / 1_000_000);
            let _ = writeln!(
                text,
                "container_cpu_usage_seconds_total{{{labels}}} {s}.{rest_ns:09} {at_ms}"
            );
        }
    }
    let help = "Current working set of the container in bytes";
    head(&mut text, "container_memory_working_set_bytes", "gauge", help);
    for one in &usage {
        if let Some(bytes) = one.working_set_bytes {
            let (labels, at_ms) = (labels(one), one.at_ns / 1_000_000);
            let _ =
                writeln!(text, "container_memory_working_set_bytes{{{labels}}} {bytes} {at_ms}");
        }
    }
    Ok(page(text))
}
