//! What a controller is: keys in, decisions out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apiclient::{Informed, PatchKind};
use env::{Sabotage, Timestamp};
use machinery::{Condition, Kind, Object, ObjectKey, View, conditions};
use serde_json::Value;

use crate::{Config, Index};

/// What a controller is asked about: an object, or work of its own such as a periodic pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The id of a kind such as `pods`, or a word of the controller's own.
    pub what: &'static str,
    /// Which one.
    pub object: ObjectKey,
}

impl Key {
    /// The key of an object.
    pub fn of(kind: &Kind, object: ObjectKey) -> Self {
        Self { what: kind.id, object }
    }

    /// The key of a cluster-scoped thing, or of a part of the controller's own work.
    pub fn named(what: &'static str, name: impl Into<String>) -> Self {
        Self { what, object: ObjectKey::new("", name) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.object)
    }
}

/// An event (core/v1) to record about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// What it is about.
    pub about: Arc<Object>,
    /// Normal or Warning.
    pub kind: &'static str,
    /// Such as SuccessfulCreate.
    pub reason: &'static str,
    /// For people; in a note that goes with a creation, `{}` stands for the new object's name.
    pub message: String,
}

impl Note {
    /// A Normal event.
    pub fn normal(about: &Arc<Object>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about: about.clone(), kind: "Normal", reason, message: message.into() }
    }

    /// A Warning event.
    pub fn warning(about: &Arc<Object>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about: about.clone(), kind: "Warning", reason, message: message.into() }
    }
}

/// What must hold at the API server, not only in the view, when a write is done.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Kind of the object that is looked up.
    pub kind: &'static Kind,
    /// Its key.
    pub key: ObjectKey,
    /// Its identity; empty for any.
    pub uid: String,
    /// Whether it must be there, and not terminating, or must be gone.
    pub present: bool,
}

/// A write, as data. Objects carry the resourceVersion that they were read at: a stale one is refused.
#[derive(Debug, Clone)]
pub enum Write {
    /// Stores a new object. Several in a row are tried in batches of 1, 2, 4, ...: when one fails the
    /// rest is left.
    Create {
        /// Its kind.
        kind: &'static Kind,
        /// The object.
        object: Object,
        /// Recorded on success; on failure a Warning about the same object is.
        note: Option<Note>,
    },
    /// Replaces an object.
    Update {
        /// Its kind.
        kind: &'static Kind,
        /// The object.
        object: Object,
    },
    /// Replaces an object's status.
    UpdateStatus {
        /// Its kind.
        kind: &'static Kind,
        /// The object.
        object: Object,
    },
    /// Replaces an object through a subresource such as `approval`.
    UpdatePart {
        /// Its kind.
        kind: &'static Kind,
        /// The object.
        object: Object,
        /// The subresource.
        subresource: &'static str,
    },
    /// Changes part of an object.
    Patch {
        /// Its kind.
        kind: &'static Kind,
        /// Which one.
        key: ObjectKey,
        /// Such as `status`, or empty.
        subresource: &'static str,
        /// How the patch is meant.
        how: PatchKind,
        /// The patch.
        patch: Value,
    },
    /// Deletes an object, unless another one has taken its name. Several in a row go at once.
    Delete {
        /// Its kind.
        kind: &'static Kind,
        /// The object as it was seen.
        object: Arc<Object>,
        /// `gracePeriodSeconds`
        grace_s: Option<i64>,
        /// `propagationPolicy`, or empty.
        propagation: &'static str,
        /// Recorded on success.
        note: Option<Note>,
    },
    /// Does a write only if the guards hold at the API server.
    If {
        /// All must hold.
        guards: Vec<Guard>,
        /// What is then done.
        write: Box<Write>,
    },
    /// Does a write only if the API server says that somebody else may do something.
    IfAllowed {
        /// The `spec` of a SubjectAccessReview.
        question: Value,
        /// What is then done.
        write: Box<Write>,
    },
    /// Takes the last finalizer from a namespace if the API server lists nothing in it; else deletes
    /// what it lists and looks again later.
    Finalize {
        /// The namespace, with its finalizers as they should become.
        namespace: Object,
    },
    /// Counts what is used of a quota, as the API server lists it, and writes it into its status.
    ///
    /// A view would not do: it may show the quota as it is after an object was created, and not the
    /// object. Here the quota is read first, so whatever it counts already is listed, and whatever is
    /// created later changes the quota, and the write is refused.
    Recount {
        /// The quota.
        quota: ObjectKey,
        /// The time by which pods may be past their grace.
        now: Timestamp,
    },
    /// Does writes for an owner, then tells in its status whether one of them failed: by the condition
    /// ReplicaFailure, as upstream. The failure counts as one all the same.
    Managed {
        /// The writes.
        writes: Vec<Write>,
        /// The owner's kind.
        kind: &'static Kind,
        /// The owner as it is.
        before: Arc<Object>,
        /// The owner with its status as it should be; the condition aside.
        object: Object,
        /// Why the condition is set, should it be: FailedCreate or FailedDelete.
        reason: &'static str,
        /// The time of the condition.
        now: Timestamp,
    },
    /// Writes that have nothing to do with one another, in groups: some go at the same time, each in its
    /// own order, and one that fails leaves the rest of its own group only.
    Apart(Vec<Vec<Write>>),
    /// Records an event.
    Event(Note),
}

/// An owner with its status after its writes were done; `None` if it is that already.
pub(crate) fn managed(
    before: &Object,
    mut object: Object,
    failure: Option<(&str, &str)>,
    now: Timestamp,
) -> Option<Object> {
    const NAME: &str = "ReplicaFailure";
    match failure {
        None => {
            if conditions::remove(&mut object, NAME) && object.list("/status/conditions").is_empty()
            {
                object.remove("/status/conditions");
            }
        }
        // The first failure stays told until nothing fails.
        Some((reason, message)) if object.condition(NAME).is_none() => {
            let condition = Condition { name: NAME, status: "True", reason, message };
            conditions::set(&mut object, condition, now);
        }
        Some(_) => {}
    }
    (before.get("/status") != object.get("/status")).then_some(object)
}

/// What a controller wants done about a key.
#[derive(Debug, Default)]
pub struct Decision {
    /// In this order; a failure leaves the rest and asks again later.
    pub writes: Vec<Write>,
    /// Ask again at the latest after this long.
    pub again_after: Option<Duration>,
    /// Ask about these keys too, at once.
    pub wake: Vec<Key>,
}

impl Decision {
    /// Nothing to do until something changes.
    pub fn settled() -> Self {
        Self::default()
    }

    /// Brings the next look forward.
    pub fn again(&mut self, after: Duration) {
        self.again_after = Some(self.again_after.map_or(after, |known| known.min(after)));
    }
}

/// What a controller may know beside the view.
pub struct DecideCx<'a> {
    /// The wall clock, for what is written into objects.
    pub now: Timestamp,
    /// Time since the driver began, on the monotonic clock: for everything that is measured.
    pub elapsed: Duration,
    /// Lookups into the view.
    pub index: &'a Index,
    /// The flags.
    pub config: &'a Config,
    /// Planted defects that are switched on.
    pub sabotages: &'a [Sabotage],
    /// Whether a change comes from the first list: it may have happened long ago.
    pub first_sight: bool,
}

impl DecideCx<'_> {
    /// Whether this planted defect is switched on.
    pub fn sabotaged(&self, sabotage: Sabotage) -> bool {
        self.sabotages.contains(&sabotage)
    }

    /// The wall clock as objects carry it, in whole seconds.
    pub fn now_text(&self) -> String {
        machinery::conditions::seconds(self.now)
    }
}

/// A controller: what it watches, which keys a change wakes, and what it decides about a key.
///
/// Both functions must be pure but for the controller's own memory, which its struct documents.
pub trait Controller: Send {
    /// Kubernetes' name of it, such as `replicaset-controller`: also the source of its events.
    fn name(&self) -> &'static str;

    /// The kinds that it looks at.
    fn watches(&self) -> Vec<&'static Kind>;

    /// Further kinds that it looks at, of which there are hardly ever any. A kind that another
    /// controller watches is not rare.
    fn watches_rare(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    /// The keys to ask about at the start, once every kind was listed.
    fn start(&mut self) -> Vec<Key> {
        Vec::new()
    }

    /// Takes note of a change, which is in the view already; answers the keys to ask about.
    fn changed(&mut self, view: &View, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key>;

    /// Says what to do about a key.
    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision;
}
