//! What a request asks for, and whether its user may.

use bytes::Bytes;
use http::{Method, Request};

use super::{AuthorizationMode, KubeletServer, Refusal, User};

/// The pairs of a query, decoded.
pub(super) fn query(request: &Request<Bytes>) -> Vec<(String, String)> {
    let text = request.uri().query().unwrap_or_default();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// All values of a name.
pub(super) fn all(query: &[(String, String)], name: &str) -> Vec<String> {
    query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The subresources of `nodes` one of which a request needs, in the order in which they are asked for.
fn needed(path: &str) -> Vec<&'static str> {
    let first = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        // The finer ones are enough since 1.33, and the old one still is.
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        _ => vec!["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Refuses what is not allowed.
pub(super) async fn authorize(
    server: &KubeletServer,
    user: &User,
    request: &Request<Bytes>,
) -> Result<(), Refusal> {
    if server.config.authorization == AuthorizationMode::AlwaysAllow {
        return Ok(());
    }
    let verb = verb(request.method());
    let mut refused = Vec::new();
    for subresource in needed(request.uri().path()) {
        if super::review::may(server, user, verb, subresource).await? {
            return Ok(());
        }
        refused.push(subresource);
    }
    Err(Refusal(
        403,
        format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            refused.join(" ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_needs_its_subresource() {
        for (path, expected) in [
            ("/stats/summary", vec!["stats"]),
            ("/metrics/resource", vec!["metrics"]),
            ("/logs/", vec!["log"]),
            ("/pods", vec!["pods", "proxy"]),
            ("/healthz", vec!["healthz", "proxy"]),
            ("/containerLogs/a/b/c", vec!["proxy"]),
            ("/exec/a/b/c", vec!["proxy"]),
            ("//metricsx", vec!["proxy"]),
        ] {
            assert_eq!(needed(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let request = Request::get("/exec?command=a+b&command=%2Fbin%2Fsh&tty=1&x=100%");
        let query = query(&request.body(Bytes::new()).unwrap());
        assert_eq!(all(&query, "command"), ["a b", "/bin/sh"]);
        assert_eq!(all(&query, "x"), ["100%"]);
    }
}
