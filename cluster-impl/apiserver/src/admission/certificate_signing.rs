//! CertificateSigning: who writes a certificate into a request needs the verb `sign` on its signer.

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Status;

use super::{Plugin, Review, Step, certificate_approval};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "CertificateSigning",
    stage: 24,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        const CERTIFICATE: &str = "/status/certificate";
        let new = review.object.as_deref().map(|object| object.text(CERTIFICATE));
        let old = review.old.map(|object| object.text(CERTIFICATE));
        if review.subresource != "status" || new == old {
            return Ok(());
        }
        certificate_approval::check(review, "sign", "sign requests").await
    }
    .boxed()
}
