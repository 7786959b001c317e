//! What the fuzzer sees of streams into containers.

use super::exec::Wanted;
use super::translate;
use super::upgrade::Wire;

/// Carries a client's streams to a process and back.
pub(crate) async fn carry(client: Wire, backend: Result<Wire, String>, tty: bool) {
    let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty };
    translate::run(&crate::fuzzing::surroundings(), client, backend, wanted).await;
}
