//! Real clients against a real server: kubectl, Python's client and an operator framework, Helm.
//!
//! Each trial makes a namespace of its own, so that they run side by side and on anybody's cluster.
//! They use `orchestrator dev`, or the cluster that `SHAKEDOWN_KUBECONFIG` names. What needs a program
//! that is not there, or real containers where none are, is ignored and says why in its name's place:
//!
//! ```text
//! cargo nextest run -p orchestrator --test clients
//! SHAKEDOWN_KUBECONFIG=$(shakedown up) cargo nextest run -p orchestrator --test clients
//! SHAKEDOWN_KUBECTL=/opt/kubectl-1.29 cargo nextest run -p orchestrator --test clients
//! ```
//!
//! Trials tell what kubectl 1.32 and 1.33 send and print. Older ones do some of it otherwise (1.31 and before
//! send no protobuf, 1.29 and before open streams over SPDY), and fail the trials that ask for just that.
//! `ci/client-tools` fetches Helm and the packages of Python.

#[path = "../common/mod.rs"]
mod common;

mod discovery;
mod identity;
mod manifests;
mod negotiation;
mod openapi;
mod other_clients;
mod reads;
mod streams;
mod subresources;
mod terminal;
mod watch;
mod wire;
mod writes;

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use terminal::{Ground, Terminal};

/// What a trial needs beside a cluster and kubectl.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing more.
    Nothing,
    /// A cluster whose containers are played, which this process may also break.
    Dev,
    /// Containers in which programs run.
    Containers,
    /// The packages of Python that `ci/client-tools` installs.
    Python,
    /// The Helm that `ci/client-tools` unpacks, or one on PATH.
    Helm,
}

/// A trial: its name, what it needs, what it does.
type Entry = (&'static str, Needs, fn(&Terminal));

fn main() {
    let args = Arguments::from_args();
    let ground = Arc::new(Ground::new());
    let lists: [(&str, &[Entry]); 10] = [
        ("discovery", discovery::TRIALS),
        ("identity", identity::TRIALS),
        ("negotiation", negotiation::TRIALS),
        ("openapi", openapi::TRIALS),
        ("other_clients", other_clients::TRIALS),
        ("reads", reads::TRIALS),
        ("streams", streams::TRIALS),
        ("subresources", subresources::TRIALS),
        ("watch", watch::TRIALS),
        ("writes", writes::TRIALS),
    ];
    let mut trials = Vec::new();
    for (section, entries) in lists {
        for (name, needs, body) in entries {
            let here = ground.clone();
            let run = move || {
                body(&Terminal::new(&here));
                Ok(())
            };
            let is_missing = ground.lacks(*needs);
            trials
                .push(Trial::test(format!("{section}::{name}"), run).with_ignored_flag(is_missing));
        }
    }
    for manifest in manifests::all() {
        let here = ground.clone();
        let name = format!("manifests::{}", manifest.name);
        let run = move || {
            manifests::try_it(&Terminal::new(&here), &manifest);
            Ok(())
        };
        trials.push(Trial::test(name, run).with_ignored_flag(ground.lacks(Needs::Nothing)));
    }
    let conclusion = libtest_mimic::run(&args, trials);
    ground.close();
    conclusion.exit();
}
