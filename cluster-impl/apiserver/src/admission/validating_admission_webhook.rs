//! ValidatingAdmissionWebhook: others refuse what is to be written, all asked at once.

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use machinery::Status;
use machinery::kinds::VALIDATING_WEBHOOK_CONFIGURATION;

use super::{Plugin, Review, Step, webhook};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ValidatingAdmissionWebhook",
    stage: 33,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        let review = &*review;
        let mut asked = Vec::new();
        for hook in webhook::all(review, &VALIDATING_WEBHOOK_CONFIGURATION, false).await? {
            if let Some(kind) = webhook::concerned(review, &hook).await? {
                asked.push((hook, kind));
            }
        }
        let answers = asked.iter().map(|(hook, kind)| webhook::ask(review, hook, kind));
        // All are asked to the end, and the first in order of name that objects is heard.
        for answer in join_all(answers).await {
            answer?;
        }
        Ok(())
    }
    .boxed()
}
