//! Watch events that somebody has read already.
//!
//! In a simulation hundreds of informers live in one process, and a change is told to many of them in the
//! same bytes. Each still gets its own bytes over its own connection; what these mean is found out
//! once, and the object is shared, as nobody changes what an informer keeps.
//! Invariant: equal bytes only are taken for equal, so it makes no difference but to the time that it takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use machinery::Object;
use serde_json::Value;

use crate::trimmed::Trimmed;

/// How many events are kept: those who follow a kind are told of a change within moments of each other.
const KEPT_MAX: usize = 512;
/// So many first bytes tell most events apart: they hold the type and the revision.
const HEAD: usize = 80;

/// One event of a watch.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    pub(crate) sort: String,
    pub(crate) object: Arc<Object>,
}

impl Event {
    /// Reads one event, without the owners of its object.
    pub(crate) fn read(line: &str) -> Result<Self, serde_json::Error> {
        let Trimmed(mut event) = serde_json::from_str(line)?;
        let object = match event.get_mut("object") {
            Some(object) => object.take(),
            None => Value::Null,
        };
        let sort = event["type"].as_str().unwrap_or_default().to_owned();
        Ok(Self { sort, object: Arc::new(Object(object)) })
    }
}

/// How an event begins, and how long it is.
type Place = ([u8; HEAD], usize);

fn place(line: &[u8]) -> Place {
    let mut head = [0; HEAD];
    let known = line.len().min(HEAD);
    head[..known].copy_from_slice(&line[..known]);
    (head, line.len())
}

#[derive(Default)]
struct Inner {
    events: BTreeMap<Place, (Box<str>, Event)>,
    order: VecDeque<Place>,
}

/// Events that were read lately, for clients that share them.
#[derive(Default)]
pub struct Heard {
    inner: Mutex<Inner>,
}

impl Heard {
    /// Reads one event, unless that was done lately.
    pub(crate) fn read(&self, line: &str) -> Result<Event, serde_json::Error> {
        let place = place(line.as_bytes());
        if let Some((known, event)) = self.lock().events.get(&place)
            && **known == *line
        {
            return Ok(event.clone());
        }
        let event = Event::read(line)?;
        // Bookmarks and errors are short, and hardly ever the same for two.
        if matches!(event.sort.as_str(), "ADDED" | "MODIFIED" | "DELETED") {
            let mut inner = self.lock();
            if inner.events.insert(place, (line.into(), event.clone())).is_none() {
                inner.order.push_back(place);
            }
            while inner.order.len() > KEPT_MAX
                && let Some(first) = inner.order.pop_front()
            {
                inner.events.remove(&first);
            }
        }
        Ok(event)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the events")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the server writes it: the revision comes first.
    fn line(sort: &str, revision: usize, value: &str) -> String {
        let filler = "x".repeat(HEAD);
        format!(
            r#"{{"type":"{sort}","object":{{"metadata":{{"resourceVersion":"{revision}","managedFields":[],"name":"a"}},"data":{{"filler":"{filler}","value":"{value}"}}}}}}"#
        )
    }

    #[test]
    fn equal_bytes_are_read_once_and_others_for_themselves() {
        let heard = Heard::default();
        let first = heard.read(&line("ADDED", 1, "a")).unwrap();
        assert_eq!(first.object.0["metadata"], json!({"resourceVersion": "1", "name": "a"}));
        let again = heard.read(&line("ADDED", 1, "a")).unwrap();
        assert!(Arc::ptr_eq(&first.object, &again.object));
        // As long, and alike from the first byte to the last but a few.
        let other = heard.read(&line("ADDED", 1, "b")).unwrap();
        assert_eq!(other.object.0["data"]["value"], "b");
        let sort = heard.read(&line("DELETED", 1, "b")).unwrap();
        assert_eq!((sort.sort.as_str(), sort.object == other.object), ("DELETED", true));
        assert!(heard.read("{\"type\":").is_err());
        assert!(heard.read("{}").unwrap().object.0.is_null());
    }

    #[test]
    fn what_came_first_is_forgotten_first() {
        let heard = Heard::default();
        let first = heard.read(&line("ADDED", 0, "a")).unwrap();
        for revision in 1..=KEPT_MAX {
            heard.read(&line("ADDED", revision, "a")).unwrap();
        }
        let inner = heard.lock();
        assert_eq!((inner.events.len(), inner.order.len()), (KEPT_MAX, KEPT_MAX));
        drop(inner);
        let again = heard.read(&line("ADDED", 0, "a")).unwrap();
        assert!(!Arc::ptr_eq(&first.object, &again.object));
        assert_eq!(first.object, again.object);
    }
}
