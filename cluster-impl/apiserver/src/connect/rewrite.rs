//! What a proxied answer says of places is told in the places of this server.

use http::header::{self, HeaderName};
use http::uri::Uri;
use http::{HeaderMap, HeaderValue};

/// What belongs to one connection only (RFC 9110, 7.6.1).
const OF_A_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what belongs to one connection only, also what the sender declares to.
pub(super) fn forget_connection(headers: &mut HeaderMap) {
    let declared: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in declared.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
}

/// Rewrites a `Location` on the backend into one below `prefix`. Another host is left alone, and so is
/// a relative place.
pub(super) fn location(headers: &mut HeaderMap, backend: &str, prefix: &str) {
    let Some(value) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    if let Some(value) = rewritten(value, backend, prefix)
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(header::LOCATION, value);
    }
}

fn rewritten(place: &str, backend: &str, prefix: &str) -> Option<String> {
    let path = match place.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => place,
        _ => {
            let uri: Uri = place.parse().ok()?;
            if uri.authority()?.as_str() != backend {
                return None;
            }
            let (_, rest) = place.split_once("//")?;
            rest.find('/').map_or("/", |at| &rest[at..])
        }
    };
    let is_inside = path
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    Some(if is_inside { path.to_owned() } else { format!("{prefix}{path}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_the_backend_become_places_below_the_proxy() {
        let prefix = "/api/v1/namespaces/a/pods/web/proxy";
        for (place, expected) in [
            ("/login?next=/x", Some("/api/v1/namespaces/a/pods/web/proxy/login?next=/x")),
            ("/dir/", Some("/api/v1/namespaces/a/pods/web/proxy/dir/")),
            ("http://10.0.0.1:80/x", Some("/api/v1/namespaces/a/pods/web/proxy/x")),
            ("http://10.0.0.1:80", Some("/api/v1/namespaces/a/pods/web/proxy/")),
            (
                "/api/v1/namespaces/a/pods/web/proxy/x",
                Some("/api/v1/namespaces/a/pods/web/proxy/x"),
            ),
            ("http://elsewhere/x", None),
            ("//elsewhere/x", None),
            ("x", None),
        ] {
            let found = rewritten(place, "10.0.0.1:80", prefix);
            assert_eq!(found.as_deref(), expected, "{place}");
        }
    }

    #[test]
    fn headers_of_a_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "x-mine, close"), ("x-mine", "1"), ("te", "trailers"), ("x-yours", "1")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        forget_connection(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-yours"]);
    }
}
