//! Paths, queries and the headers that choose the form of an answer.

use crate::accept::Accept;
use crate::aggregation;
use crate::config::Config;
use crate::query::{Query, decode, decode_path};
use crate::request::Verb;
use crate::route::{Route, route};
use crate::server::verb;
use crate::verbs::continue_token::ContinueToken;
use crate::{server, storage_key};

/// The first line is a path with its query, the second is `Accept`, the third `Accept-Encoding`.
pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (path, query) = line().split_once('?').unwrap_or((&text, ""));
    let (accept, encoding) = (line(), line());
    let _ = Accept::read(accept, encoding).and_then(Accept::without_protobuf);
    let query = Query::parse(query);
    for name in ["limit", "timeoutSeconds", "gracePeriodSeconds", "watch", ""] {
        let _ = (query.integer(name), query.optional_flag(name), query.all(name).count());
    }
    let _ = server::include(&query);
    let _ = (decode(&text), decode_path(&text), aggregation::split(path));
    if let Ok(token) = ContinueToken::decode(query.text("continue")) {
        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
    }
    if let Ok(token) = ContinueToken::decode(&text) {
        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
    }
    if let Route::Resource(resource) = route(path) {
        let range = storage_key::range(resource.kind, &resource.key.namespace);
        let key = storage_key::key(resource.kind, &resource.key);
        let is_plain = |name: &str| !name.contains('/') && !name.is_empty();
        if is_plain(&resource.key.namespace) && is_plain(&resource.key.name) {
            assert!(range.contains(key.as_ref()), "{path:?} names a key of its own kind");
        }
        for method in [http::Method::GET, http::Method::POST, http::Method::DELETE] {
            let verb = verb(&method, &resource.key, &resource.subresource, &query);
            assert!(verb != Ok(Verb::Patch));
        }
    }
    let _ = Config::default();
}
