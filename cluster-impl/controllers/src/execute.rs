//! The one place where decisions become requests.
//!
//! Writes go in order and stop at the first failure, unless they are said to be apart; creations in a row go in growing batches and
//! deletions in a row at once. Answers what the view will show, what to record, and what failed.

use std::sync::Arc;

use apiclient::{ApiClient, ApiError, DeleteOptions, ListOptions};
use env::Timestamp;
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, StreamExt};
use machinery::kinds::{NAMESPACE, RESOURCE_QUOTA};
use machinery::{Kind, Object, ObjectKey, custom, kinds, quota};

use crate::controller::managed;
use crate::expectations::Expected;
use crate::{Guard, Note, Write};

/// So many groups of writes go at a time: upstream's workers that update nodes.
const APART_MAX: usize = 8;

/// How the writes of one decision came out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the view will show.
    pub expected: Vec<Expected>,
    /// Events to record.
    pub notes: Vec<Note>,
    /// Why the rest was left, if it was.
    pub error: Option<ApiError>,
    /// Whether it must be looked at again although nothing failed.
    pub again: bool,
}

impl Outcome {
    fn wrote(&mut self, kind: &'static Kind, answer: &Object) {
        self.expected.push(Expected::Written { kind: kind.id, revision: answer.revision() });
    }
}

/// Executes the writes of one decision.
pub async fn execute(client: ApiClient, writes: Vec<Write>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut writes = writes.into_iter().peekable();
    while let Some(write) = writes.next() {
        let is_create = matches!(write, Write::Create { .. });
        let is_delete = matches!(write, Write::Delete { .. });
        let mut run = vec![write];
        while let Some(next) = writes.next_if(|next| match next {
            Write::Create { .. } => is_create,
            Write::Delete { .. } => is_delete,
            _ => false,
        }) {
            run.push(next);
        }
        let done = if is_create {
            create_all(&client, run, &mut outcome).await
        } else if is_delete {
            delete_all(&client, run, &mut outcome).await
        } else {
            one(&client, run.swap_remove(0), &mut outcome).await
        };
        if let Err(error) = done {
            outcome.error = Some(error);
            break;
        }
    }
    outcome
}

/// Creates in batches of 1, 2, 4, ...: a mistake that fails every creation costs one request.
async fn create_all(
    client: &ApiClient,
    run: Vec<Write>,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    let mut rest = run.into_iter();
    let mut size = 1;
    loop {
        let batch: Vec<_> = rest.by_ref().take(size).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let answers = join_all(batch.iter().map(|write| async {
            let Write::Create { kind, object, .. } = write else {
                unreachable!("a run of creations")
            };
            client.create(kind, object).await
        }))
        .await;
        let mut failed = None;
        for (write, answer) in batch.into_iter().zip(answers) {
            let Write::Create { kind, note, .. } = write else {
                unreachable!("a run of creations")
            };
            match answer {
                Ok(object) => {
                    outcome.wrote(kind, &object);
                    outcome.notes.extend(note.map(|mut note| {
                        note.message = note.message.replace("{}", object.name());
                        note
                    }));
                }
                Err(error) => {
                    outcome.notes.extend(note.map(|note| {
                        Note::warning(
                            &note.about,
                            "FailedCreate",
                            format!("Error creating: {error}"),
                        )
                    }));
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        size *= 2;
    }
}

async fn delete_all(
    client: &ApiClient,
    run: Vec<Write>,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    let answers = join_all(run.iter().map(|write| async {
        let Write::Delete { kind, object, grace_s, propagation, .. } = write else {
            unreachable!("a run of deletions")
        };
        let uid = object.uid().to_owned();
        let options = DeleteOptions { grace_s: *grace_s, uid, propagation };
        client.delete(kind, &object.key(), &options).await
    }))
    .await;
    let mut failed = None;
    for (write, answer) in run.into_iter().zip(answers) {
        let Write::Delete { kind, object, note, .. } = write else {
            unreachable!("a run of deletions")
        };
        match answer {
            Ok(()) => outcome.notes.extend(note),
            // It is gone, or another one has its name: the view will show it.
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        }
        outcome.expected.push(deleted(kind, &object));
    }
    failed.map_or(Ok(()), Err)
}

fn deleted(kind: &'static Kind, object: &Arc<Object>) -> Expected {
    Expected::Deleted {
        kind: kind.id,
        key: object.key(),
        uid: object.uid().to_owned(),
        revision: object.revision(),
    }
}

async fn one(client: &ApiClient, write: Write, outcome: &mut Outcome) -> Result<(), ApiError> {
    match write {
        Write::Update { kind, object } => {
            let answer = client.update(kind, &object).await;
            settle(kind, answer, outcome)
        }
        Write::UpdateStatus { kind, object } => {
            let answer = client.update_status(kind, &object).await;
            settle(kind, answer, outcome)
        }
        Write::UpdatePart { kind, object, subresource } => {
            let answer = client.update_subresource(kind, &object, subresource).await;
            settle(kind, answer, outcome)
        }
        Write::IfAllowed { question, write } => {
            if !client.is_allowed(&question).await? {
                return Ok(());
            }
            Box::pin(one(client, *write, outcome)).await
        }
        Write::Patch { kind, key, subresource, how, patch } => {
            let answer = client.patch(kind, &key, subresource, (how, &patch)).await;
            settle(kind, answer, outcome)
        }
        Write::If { guards, write } => {
            for guard in &guards {
                if !holds(client, guard).await? {
                    outcome.again = true;
                    return Ok(());
                }
            }
            match *write {
                Write::Create { .. } => create_all(client, vec![*write], outcome).await,
                Write::Delete { .. } => delete_all(client, vec![*write], outcome).await,
                _ => Box::pin(one(client, *write, outcome)).await,
            }
        }
        Write::Finalize { namespace } => finalize(client, &namespace, outcome).await,
        Write::Recount { quota, now } => recount(client, &quota, now, outcome).await,
        Write::Apart(groups) => apart(client, groups, outcome).await,
        Write::Managed { writes, kind, before, object, reason, now } => {
            let inner = execute_within(client.clone(), writes).await;
            outcome.expected.extend(inner.expected);
            outcome.notes.extend(inner.notes);
            outcome.again |= inner.again;
            let why = inner.error.as_ref().map(ToString::to_string);
            let failure = why.as_deref().map(|why| (reason, why));
            if let Some(object) = managed(&before, object, failure, now) {
                let answer = client.update_status(kind, &object).await;
                settle(kind, answer, outcome)?;
            }
            inner.error.map_or(Ok(()), Err)
        }
        Write::Event(note) => {
            outcome.notes.push(note);
            Ok(())
        }
        Write::Create { .. } => create_all(client, vec![write], outcome).await,
        Write::Delete { .. } => delete_all(client, vec![write], outcome).await,
    }
}

/// The writes of a write: its own function, for a future that holds itself cannot be told to be `Send`.
fn execute_within(client: ApiClient, writes: Vec<Write>) -> BoxFuture<'static, Outcome> {
    Box::pin(execute(client, writes))
}

/// Some groups at a time; what fails first is told, once all were tried.
fn apart<'a>(
    client: &'a ApiClient,
    groups: Vec<Vec<Write>>,
    outcome: &'a mut Outcome,
) -> BoxFuture<'a, Result<(), ApiError>> {
    Box::pin(async move {
        let works: Vec<_> =
            groups.into_iter().map(|writes| execute(client.clone(), writes)).collect();
        let mut done = stream::iter(works).buffered(APART_MAX);
        let mut failed = None;
        while let Some(group) = done.next().await {
            outcome.expected.extend(group.expected);
            outcome.notes.extend(group.notes);
            outcome.again |= group.again;
            failed = failed.or(group.error);
        }
        failed.map_or(Ok(()), Err)
    })
}

/// An object that is gone needs no change: the view will show that it is gone.
fn settle(
    kind: &'static Kind,
    answer: Result<Object, ApiError>,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    match answer {
        Ok(object) => outcome.wrote(kind, &object),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn holds(client: &ApiClient, guard: &Guard) -> Result<bool, ApiError> {
    match client.get(guard.kind, &guard.key).await {
        Ok(object) => {
            let is_meant = guard.uid.is_empty() || object.uid() == guard.uid;
            Ok(if guard.present { is_meant && !object.is_terminating() } else { !is_meant })
        }
        Err(error) if error.is_not_found() => Ok(!guard.present),
        Err(error) => Err(error),
    }
}

/// Empties the namespace as the API server sees it; lets it go once nothing is left.
async fn finalize(
    client: &ApiClient,
    namespace: &Object,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    let mut left = 0;
    let definitions = &kinds::CUSTOM_RESOURCE_DEFINITION;
    let (_, definitions) = client.list(definitions, &ListOptions::default()).await?;
    let own = definitions.iter().filter_map(custom::preferred);
    for kind in kinds::ALL.iter().copied().chain(own).filter(|kind| kind.namespaced) {
        let options = ListOptions { namespace: namespace.name().to_owned(), ..Default::default() };
        let (_, objects) = client.list(kind, &options).await?;
        left += objects.len();
        for object in objects.iter().filter(|object| !object.is_terminating()) {
            let options = DeleteOptions { uid: object.uid().to_owned(), ..Default::default() };
            match client.delete(kind, &object.key(), &options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    if left > 0 {
        outcome.again = true;
        return Ok(());
    }
    let answer = client.update_subresource(&NAMESPACE, namespace, "finalize").await;
    match answer {
        Ok(_) => {
            let key = ObjectKey::new("", namespace.name());
            let (kind, uid) = (NAMESPACE.id, namespace.uid().to_owned());
            outcome.expected.push(Expected::Deleted {
                kind,
                key,
                uid,
                revision: namespace.revision(),
            });
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Counts what is used of a quota. The quota is read before what it counts; see [`Write::Recount`].
async fn recount(
    client: &ApiClient,
    key: &ObjectKey,
    now: Timestamp,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    let options = ListOptions { namespace: key.namespace.clone(), ..Default::default() };
    let (_, quotas) = client.list(&RESOURCE_QUOTA, &options).await?;
    let Some(mut found) = quotas.into_iter().find(|quota| quota.name() == key.name) else {
        return Ok(());
    };
    let (_, definitions) =
        client.list(&kinds::CUSTOM_RESOURCE_DEFINITION, &ListOptions::default()).await?;
    let customs: Vec<_> = definitions.iter().filter_map(custom::preferred).collect();
    let counted = quota::counted(&found, &customs);
    let mut objects = Vec::new();
    for kind in &counted {
        let (_, listed) = client.list(kind, &options).await?;
        objects.extend(listed.into_iter().map(|object| (*kind, object)));
    }
    let objects = objects.iter().map(|(kind, object)| (*kind, object));
    let status = quota::status(&found, &counted, objects, now);
    if found.get("/status").is_some_and(|known| quota::is_same_status(known, &status)) {
        return Ok(());
    }
    found.set("/status", status);
    let answer = client.update_status(&RESOURCE_QUOTA, &found).await;
    if answer.as_ref().is_err_and(ApiError::is_conflict) {
        // Somebody has just taken or given something: that is no failure, but what was counted is old.
        outcome.again = true;
        return Ok(());
    }
    settle(&RESOURCE_QUOTA, answer, outcome)
}
