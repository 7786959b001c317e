//! list: a collection at one revision, in pages if asked for.
//!
//! Every page of one list is read at the revision of the first. When that revision is forgotten, the
//! answer is 410 with a fresh token that goes on with what is there now.

use machinery::{Cause, Status};
use storage::{KeyRange, KeyValue, RangeRequest, RangeResult, StoreError};

use crate::answer::{Answer, Content, List};
use crate::codec::Stored;
use crate::query::Query;
use crate::request::Request;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::continue_token::ContinueToken;
use crate::{custom, status, storage_key};

/// While a selector narrows a paged list, the store is asked for at least so many keys at once.
const PAGE_KEYS_MIN: usize = 500;

/// What a list found.
pub(crate) struct Found {
    pub(crate) kvs: Vec<KeyValue>,
    /// The revision at which all of it was true.
    pub(crate) revision: i64,
    /// The first key that was not looked at.
    next: Option<Vec<u8>>,
    /// How many keys were not looked at.
    remaining: usize,
}

/// Which revision a list is read at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Latest,
    NotOlderThan(i64),
    Exactly(i64),
}

/// Lists a collection.
pub(crate) async fn list(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let selection = Selection::read(request.kind, &request.key, &request.query)?;
    let limit = limit(&request.query)?;
    let prefix = storage_key::prefix(request.kind);
    let (at, mut range) = (at(&request.query, limit)?, selection.range());
    let token = request.query.find("continue").filter(|token| !token.is_empty());
    let at = match token.map(ContinueToken::decode).transpose()? {
        None => at,
        Some(token) => {
            let start = format!("{prefix}{}", token.start).into_bytes();
            if !range.contains(&start) || range.end.is_none() {
                return Err(Status::bad_request("continue key is not valid"));
            }
            range.start = start;
            if token.revision < 0 { At::Latest } else { At::Exactly(token.revision) }
        }
    };
    let start = range.start.clone();
    let found = match collect(server, &selection, (range, at), limit).await {
        Err(status) if token.is_some() && status.code == 410 => {
            let start = String::from_utf8_lossy(&start[prefix.len()..]).into_owned();
            return Ok(expired(&ContinueToken::new(-1, &start)));
        }
        found => found?,
    };
    let continue_token = found.next.as_ref().map_or_else(String::new, |next| {
        let start = String::from_utf8_lossy(&next[prefix.len()..]);
        ContinueToken::new(found.revision, &start).encode()
    });
    let remaining = (found.next.is_some() && selection.is_everything()).then_some(found.remaining);
    Ok(Answer::new(
        200,
        Content::List(List {
            kind: request.kind,
            items: found.kvs.iter().map(Stored::from).collect(),
            revision: found.revision,
            continue_token,
            remaining,
        }),
    ))
}

/// Everything that a selection selects now.
pub(crate) async fn everything(
    server: &ApiServer,
    selection: &Selection,
    oldest: Option<i64>,
) -> Result<Found, Status> {
    let at = oldest.map_or(At::Latest, At::NotOlderThan);
    collect(server, selection, (selection.range(), at), 0).await
}

/// Everything that a selection's range holds now, as it is stored.
pub(crate) async fn raw(
    server: &ApiServer,
    selection: &Selection,
) -> Result<Vec<KeyValue>, Status> {
    Ok(read(server, (selection.range(), At::Latest), 0).await?.kvs)
}

async fn collect(
    server: &ApiServer,
    selection: &Selection,
    (mut range, at): (KeyRange, At),
    limit: usize,
) -> Result<Found, Status> {
    let is_everything = selection.is_everything();
    let mut found = Found { kvs: Vec::new(), revision: 0, next: None, remaining: 0 };
    loop {
        let page = match limit {
            0 => 0,
            _ if is_everything => limit,
            _ => limit.max(PAGE_KEYS_MIN),
        };
        let is_first = found.revision == 0;
        let at = if is_first { at } else { At::Exactly(found.revision) };
        let mut result = read(server, (range.clone(), at), page).await?;
        custom::incoming(server, selection.kind(), &mut result.kvs).await?;
        if is_first {
            found.revision = if let At::Exactly(pinned) = at { pinned } else { result.revision };
        }
        let (held, mut taken) = (result.kvs.len(), 0);
        let mut last = None;
        for kv in result.kvs {
            taken += 1;
            let mut next = kv.key.to_vec();
            next.push(0);
            last = Some(next);
            if is_everything
                || selection.matches(server.decoded.of(selection.kind(), &kv)?.as_ref())
            {
                found.kvs.push(kv);
            }
            if limit > 0 && found.kvs.len() == limit {
                break;
            }
        }
        let is_full = limit > 0 && found.kvs.len() == limit;
        if is_full || !result.more {
            if taken < held || result.more {
                found.next = last;
                found.remaining = result.count.saturating_sub(taken);
            }
            return Ok(found);
        }
        let Some(next) = last else { return Ok(found) };
        range.start = next;
    }
}

async fn read(
    server: &ApiServer,
    (range, at): (KeyRange, At),
    limit: usize,
) -> Result<RangeResult, Status> {
    let asked = RangeRequest { limit, ..RangeRequest::latest(range) };
    match at {
        At::Latest => server.store.range(asked).await.map_err(status::from_store),
        At::NotOlderThan(oldest) => {
            not_older_than(server, RangeRequest { serializable: true, ..asked }, oldest).await
        }
        At::Exactly(revision) => {
            match server.store.range(RangeRequest { revision, ..asked }).await {
                Err(StoreError::FutureRevision { .. }) => {
                    let current = server.store.status().await.map_err(status::from_store)?.revision;
                    Err(status::too_large_revision(revision, current))
                }
                result => result.map_err(status::from_store),
            }
        }
    }
}

/// Reads, from the nearest member if that is fresh enough, at a revision of at least `oldest`.
pub(crate) async fn not_older_than(
    server: &ApiServer,
    mut asked: RangeRequest,
    oldest: i64,
) -> Result<RangeResult, Status> {
    let mut result = server.store.range(asked.clone()).await.map_err(status::from_store)?;
    if result.revision < oldest && asked.serializable {
        asked.serializable = false;
        result = server.store.range(asked).await.map_err(status::from_store)?;
    }
    if result.revision < oldest {
        return Err(status::too_large_revision(oldest, result.revision));
    }
    Ok(result)
}

/// The query's `resourceVersion`; `None` if unset.
pub(crate) fn revision(query: &Query) -> Result<Option<i64>, Status> {
    match query.text("resourceVersion") {
        "" => Ok(None),
        text => match text.parse::<i64>() {
            Ok(revision) if revision >= 0 => Ok(Some(revision)),
            _ => Err(Status::bad_request(format!(
                "resourceVersion: Invalid value: \"{text}\": must be an unsigned integer"
            ))),
        },
    }
}

fn limit(query: &Query) -> Result<usize, Status> {
    let limit = query.integer("limit")?.unwrap_or_default();
    usize::try_from(limit)
        .map_err(|_| refused("limit", &format!("Invalid value: {limit}: must not be negative")))
}

fn at(query: &Query, limit: usize) -> Result<At, Status> {
    let field = "resourceVersionMatch";
    let revision = revision(query)?;
    let wanted = query.text(field);
    let is_continued = !query.text("continue").is_empty();
    if is_continued && !wanted.is_empty() {
        return Err(refused(field, "Forbidden: resourceVersionMatch is forbidden with continue"));
    }
    if is_continued && revision.is_some_and(|revision| revision > 0) {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    match (wanted, revision) {
        ("", None) => Ok(At::Latest),
        // As upstream: a paged list that names a revision means exactly that one.
        ("", Some(revision)) if limit > 0 && revision > 0 => Ok(At::Exactly(revision)),
        ("" | "NotOlderThan", Some(revision)) => Ok(At::NotOlderThan(revision)),
        ("Exact", Some(0)) => {
            let why =
                "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            Err(refused(field, why))
        }
        ("Exact", Some(revision)) => Ok(At::Exactly(revision)),
        ("Exact" | "NotOlderThan", None) => Err(refused(
            field,
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (other, _) => Err(refused(
            field,
            &format!(
                "Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
            ),
        )),
    }
}

/// 422 about the options of a list or a watch.
pub(crate) fn refused(field: &str, why: &str) -> Status {
    let reason = match why.split(':').next().unwrap_or_default() {
        "Forbidden" => "FieldValueForbidden",
        "Unsupported value" => "FieldValueNotSupported",
        _ => "FieldValueInvalid",
    };
    let cause = Cause { reason: reason.into(), message: why.into(), field: field.into() };
    Status::invalid("meta.k8s.io", "ListOptions", "", &[cause])
}

fn expired(fresh: &ContinueToken) -> Answer {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this response \
         to retrieve the remainder of the results. Continuing with the provided token results in an \
         inconsistent list - objects that were created, modified, or deleted between the time the \
         first chunk was returned and now may show up in the list.",
    );
    let mut value = status.to_value();
    value["metadata"]["continue"] = fresh.encode().into();
    Answer::new(410, Content::Value(value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;
    use serde_json::{Value, json};

    use crate::testing::{MAPS, PODS, World, config_map, named, pod, text};

    fn names(list: &Value) -> Vec<&str> {
        let items = list["items"].as_array().expect("a list has items");
        items.iter().map(|item| text(&item["metadata"]["name"])).collect()
    }

    async fn five_maps(world: &World) {
        for at in 0..5 {
            let mut map = config_map(&format!("m{at}"), "1");
            map["metadata"]["labels"] = json!({"parity": if at % 2 == 0 { "even" } else { "odd" }});
            world.create(MAPS, map).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_one_revision_in_order_of_key() {
        let world = World::new().await;
        five_maps(&world).await;
        let list = world.get(MAPS).await;
        assert_eq!(list["kind"], "ConfigMapList");
        assert_eq!(list["apiVersion"], "v1");
        assert_eq!(names(&list), ["m0", "m1", "m2", "m3", "m4"]);
        let last = &list["items"][4]["metadata"]["resourceVersion"];
        assert_eq!(&list["metadata"]["resourceVersion"], last);
        let empty = world.get(PODS).await;
        assert_eq!(empty["items"], json!([]));
    }

    #[tokio::test(start_paused = true)]
    async fn selectors_narrow_a_list() {
        let world = World::new().await;
        five_maps(&world).await;
        world.create("/api/v1/namespaces/kube-system/configmaps", config_map("m0", "1")).await;
        for (query, expected) in [
            ("labelSelector=parity%3Deven", vec!["m0", "m2", "m4"]),
            ("labelSelector=parity+notin+(even)", vec!["m1", "m3"]),
            ("fieldSelector=metadata.name%3Dm3", vec!["m3"]),
            ("fieldSelector=metadata.name%3Dm3&labelSelector=parity%3Deven", vec![]),
            ("fieldSelector=metadata.name!%3Dm3&labelSelector=parity%3Dodd", vec!["m1"]),
        ] {
            assert_eq!(names(&world.get(&format!("{MAPS}?{query}")).await), expected, "{query}");
        }
        let everywhere = world.get("/api/v1/configmaps?fieldSelector=metadata.name%3Dm0").await;
        assert_eq!(names(&everywhere), ["m0", "m0"]);
        let (code, _) = world
            .call(Method::GET, &format!("{MAPS}?fieldSelector=data.x%3D1"), &Value::Null)
            .await;
        assert_eq!(code, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_pinned_to_the_first_ones_revision() {
        let world = World::new().await;
        five_maps(&world).await;
        let first = world.get(&format!("{MAPS}?limit=2")).await;
        assert_eq!(names(&first), ["m0", "m1"]);
        assert_eq!(first["metadata"]["remainingItemCount"], 3);
        world.create(MAPS, config_map("m11", "late")).await;
        world.delete(&format!("{MAPS}/m3")).await;
        let token = text(&first["metadata"]["continue"]).to_owned();
        let second = world.get(&format!("{MAPS}?limit=2&continue={token}")).await;
        assert_eq!(names(&second), ["m2", "m3"], "as of the first page");
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let token = text(&second["metadata"]["continue"]).to_owned();
        let third = world.get(&format!("{MAPS}?limit=2&continue={token}")).await;
        assert_eq!(names(&third), ["m4"]);
        assert_eq!(third["metadata"].get("continue"), None);
        let exact = world.get(&format!("{MAPS}?limit=5")).await;
        assert_eq!(exact["metadata"].get("continue"), None, "the page holds all there is");
    }

    #[tokio::test(start_paused = true)]
    async fn pages_of_a_selection_hold_as_many_as_asked_for() {
        let world = World::new().await;
        five_maps(&world).await;
        let (mut seen, mut token) = (BTreeSet::new(), String::new());
        for page in 0..3 {
            let path = format!("{MAPS}?limit=1&labelSelector=parity%3Deven&continue={token}");
            let list = world.get(&path).await;
            assert_eq!(names(&list).len(), 1, "page {page}");
            assert_eq!(list["metadata"].get("remainingItemCount"), None, "unknown by a selector");
            seen.insert(names(&list)[0].to_owned());
            token = text(&list["metadata"]["continue"]).to_owned();
        }
        assert_eq!(seen.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_page_is_expired_with_a_fresh_token() {
        let world = World::new().await;
        five_maps(&world).await;
        let first = world.get(&format!("{MAPS}?limit=2")).await;
        world.create(MAPS, config_map("m11", "late")).await;
        let now = world.get(MAPS).await;
        let revision: i64 = text(&now["metadata"]["resourceVersion"]).parse().unwrap();
        world.server.store.compact(revision).await.unwrap();
        let token = text(&first["metadata"]["continue"]);
        let (code, status) = world
            .call(Method::GET, &format!("{MAPS}?limit=9&continue={token}"), &Value::Null)
            .await;
        assert_eq!((code, text(&status["reason"])), (410, "Expired"));
        let token = text(&status["metadata"]["continue"]);
        let rest = world.get(&format!("{MAPS}?limit=9&continue={token}")).await;
        assert_eq!(names(&rest), ["m11", "m2", "m3", "m4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn revisions_are_honoured() {
        let world = World::new().await;
        five_maps(&world).await;
        let before = world.get(MAPS).await;
        let revision: i64 = text(&before["metadata"]["resourceVersion"]).parse().unwrap();
        world.delete(&format!("{MAPS}/m0")).await;
        let old = revision - 1;
        for (query, expected) in [
            (String::new(), Ok(4)),
            ("resourceVersion=0".to_owned(), Ok(4)),
            (format!("resourceVersion={revision}"), Ok(4)),
            (format!("resourceVersion={revision}&resourceVersionMatch=NotOlderThan"), Ok(4)),
            (format!("resourceVersion={revision}&resourceVersionMatch=Exact"), Ok(5)),
            (format!("resourceVersion={old}&resourceVersionMatch=Exact"), Ok(4)),
            (format!("resourceVersion={revision}&limit=500"), Ok(5)),
            ("resourceVersion=0&resourceVersionMatch=Exact".to_owned(), Err(422)),
            ("resourceVersionMatch=Exact".to_owned(), Err(422)),
            ("resourceVersion=1&resourceVersionMatch=Odd".to_owned(), Err(422)),
            ("resourceVersion=x".to_owned(), Err(400)),
            ("limit=-1".to_owned(), Err(422)),
            ("continue=zzz".to_owned(), Err(400)),
            (format!("resourceVersion={}", revision + 100), Err(504)),
            (format!("resourceVersion={}&resourceVersionMatch=Exact", revision + 100), Err(504)),
        ] {
            let path = format!("{MAPS}?{query}");
            let (code, answer) = world.call(Method::GET, &path, &Value::Null).await;
            let found = if code == 200 { Ok(names(&answer).len()) } else { Err(code) };
            assert_eq!(found, expected, "{query}: {answer}");
        }
        let path = format!("{MAPS}?resourceVersion={}", revision + 100);
        let (_, status) = world.call(Method::GET, &path, &Value::Null).await;
        assert!(text(&status["message"]).starts_with("Timeout: Too large resource version"));
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        world.server.store.compact(revision).await.unwrap();
        let path = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
        assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, 410);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_cannot_leave_its_collection() {
        let world = World::new().await;
        world.create(PODS, pod("web")).await;
        world.create("/api/v1/namespaces", named("v1", "Namespace", "zoo")).await;
        world.create("/api/v1/namespaces/zoo/configmaps", config_map("hidden", "1")).await;
        for start in ["zoo/hidden", "../pods/default/web", ""] {
            let token = super::ContinueToken::new(-1, start).encode();
            let path = format!("{MAPS}?continue={token}");
            assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, 400, "{start}");
        }
    }
}
