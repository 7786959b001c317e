//! Manifests as people write them, good and bad, by `kubectl apply`. The file is that of machinery's test
//! of the same name: what the server refuses, it refuses here with the same words.

use crate::terminal::Terminal;

const MANIFESTS: &str = include_str!("../../../machinery/tests/seed_manifests.txt");

/// A manifest and what becomes of it.
pub struct Manifest {
    pub name: &'static str,
    /// What kubectl must say; nothing if it is accepted.
    refused: Option<&'static str>,
    text: &'static str,
}

/// Every manifest.
pub fn all() -> impl Iterator<Item = Manifest> {
    MANIFESTS.split("#= ").skip(1).map(|entry| {
        let (heading, text) = entry.split_once('\n').expect("a manifest follows its heading");
        let (name, expected) = heading.split_once(": ").expect("a heading names what is expected");
        let by_kubectl = text.strip_prefix("#> ").and_then(|rest| rest.lines().next());
        let text =
            text.split_once('\n').filter(|_| by_kubectl.is_some()).map_or(text, |(_, rest)| rest);
        Manifest { name, refused: by_kubectl.or(expected.strip_prefix("refused ")), text }
    })
}

/// Gives it to kubectl, and takes back what comes of it.
pub fn try_it(terminal: &Terminal, manifest: &Manifest) {
    let text = here(manifest.text, &terminal.ns);
    terminal.write("manifest.yaml", &text);
    if let Some(why) = manifest.refused {
        let told = terminal.fails("kubectl create -f manifest.yaml");
        // kubectl lists the causes of an invalid object by themselves.
        let cause = why.rsplit(" is invalid: ").next().unwrap_or(why);
        assert!(told.contains(cause), "should be refused with {cause}\n{told}");
        return;
    }
    // What belongs to no namespace could be in somebody's way.
    let dry = if terminal.is_dev { "" } else { dry_run(&text) };
    terminal.shows(&format!("kubectl apply -f manifest.yaml {dry}"), &[" created"]);
    if dry.is_empty() {
        // What a default fills into a list, kubectl takes out again: not each is told to be unchanged.
        let told = terminal.ok("kubectl apply -f manifest.yaml");
        assert!(!told.contains(" created") || manifest.name.contains("sa-token"), "{told}");
        terminal.ok("kubectl delete -f manifest.yaml --wait=false --ignore-not-found");
    }
}

/// The manifest with the trial's namespace in place of its own.
fn here(text: &str, ns: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("namespace: ") {
        Some((before, _)) if before.trim_start().trim_start_matches('-').trim().is_empty() => {
            format!("{before}namespace: {ns}\n")
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn dry_run(text: &str) -> &'static str {
    let apart = ["Namespace", "PersistentVolume", "ClusterRole", "ClusterRoleBinding"];
    let is_apart =
        |line: &str| line.strip_prefix("kind:").is_some_and(|kind| apart.contains(&kind.trim()));
    if text.lines().any(is_apart) { "--dry-run=server" } else { "" }
}
