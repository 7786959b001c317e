//! What staged containers see of their pods' volumes: files by path, as a container would find them.
//!
//! A mount of a whole volume shows its files as they are now, one of a part as they were when the
//! container was made, as a bind mount does. What containers write is not played.

use std::collections::BTreeMap;

use crate::runtime::{Mount, PodVolume, VolumeContent, VolumeFile};

/// The volumes of one pod, by name.
pub(super) type Volumes = BTreeMap<String, PodVolume>;

/// A mount of a container.
pub(super) struct Shown {
    mount: Mount,
    /// What a part of a volume held when the container was made.
    then: BTreeMap<String, Vec<u8>>,
}

impl Shown {
    /// The mounts of a container that is made now.
    pub(super) fn all(volumes: Option<&Volumes>, mounts: &[Mount]) -> Vec<Self> {
        let one = |mount: &Mount| {
            let then = match mount.sub_path.as_str() {
                "" => BTreeMap::new(),
                part => part_of(files(volumes, &mount.volume), part),
            };
            Self { mount: mount.clone(), then }
        };
        mounts.iter().map(one).collect()
    }
}

fn files<'v>(
    volumes: Option<&'v Volumes>,
    name: &str,
) -> impl Iterator<Item = (&'v String, &'v VolumeFile)> {
    let volume = volumes.and_then(|volumes| volumes.get(name));
    let files = volume.and_then(|volume| match &volume.content {
        VolumeContent::Files { files, .. } => Some(files),
        _ => None,
    });
    files.into_iter().flatten()
}

/// A file of the volume, under an empty path, or what is below a folder of it.
fn part_of<'v>(
    files: impl Iterator<Item = (&'v String, &'v VolumeFile)>,
    part: &str,
) -> BTreeMap<String, Vec<u8>> {
    files
        .filter_map(|(path, file)| {
            let rest = path.strip_prefix(part)?;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| (rest.trim_start_matches('/').to_owned(), file.content.clone()))
        })
        .collect()
}

/// All files that a container sees of its volumes, by path. A later mount hides what is below it.
pub(super) fn tree(volumes: Option<&Volumes>, mounts: &[Shown]) -> BTreeMap<String, Vec<u8>> {
    let mut tree: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for Shown { mount, then } in mounts {
        let place = mount.container_path.trim_end_matches('/');
        let below = format!("{place}/");
        tree.retain(|path, _| path != place && !path.starts_with(&below));
        let mut show = |path: &str, content: &[u8]| {
            let path = if path.is_empty() { place.to_owned() } else { format!("{below}{path}") };
            tree.insert(path, content.to_vec());
        };
        if mount.sub_path.is_empty() {
            files(volumes, &mount.volume).for_each(|(path, file)| show(path, &file.content));
        } else {
            then.iter().for_each(|(path, content)| show(path, content));
        }
    }
    tree
}

/// Whether a file holds a text.
pub(super) fn holds(files: &BTreeMap<String, Vec<u8>>, path: &str, text: &str) -> bool {
    files.get(path).is_some_and(|content| String::from_utf8_lossy(content).contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{FilesOf, MountSource};

    fn volume(files: &[(&str, &str)]) -> Volumes {
        let file = |content: &str| VolumeFile { content: content.into(), mode: 0o644, user: None };
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), file(content)));
        let content = VolumeContent::Files { of: FilesOf::ConfigMap, files: files.collect() };
        Volumes::from([("v".to_owned(), PodVolume { name: "v".to_owned(), content, group: None })])
    }

    fn mount(container_path: &str, sub_path: &str) -> Mount {
        Mount {
            container_path: container_path.to_owned(),
            volume: "v".to_owned(),
            source: MountSource::Files(FilesOf::ConfigMap),
            sub_path: sub_path.to_owned(),
            readonly: true,
            propagation: String::new(),
        }
    }

    #[test]
    fn a_whole_volume_changes_and_a_part_of_it_stays_as_it_was() {
        let old = volume(&[("colour", "red"), ("deep/shape", "round")]);
        let mounts = [mount("/etc/paint", ""), mount("/colour", "colour"), mount("/s", "deep")];
        let shown = Shown::all(Some(&old), &mounts);
        let new = volume(&[("colour", "blue"), ("deep/shape", "square")]);
        let told = |volumes: &Volumes| -> Vec<String> {
            let tree = tree(Some(volumes), &shown);
            let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
            tree.iter().map(|(path, content)| format!("{path}={}", text(content))).collect()
        };
        let before = [
            "/colour=red",
            "/etc/paint/colour=red",
            "/etc/paint/deep/shape=round",
            "/s/shape=round",
        ];
        let after = [
            "/colour=red",
            "/etc/paint/colour=blue",
            "/etc/paint/deep/shape=square",
            "/s/shape=round",
        ];
        assert_eq!(told(&old), before);
        assert_eq!(told(&new), after);
        assert!(holds(&tree(Some(&new), &shown), "/etc/paint/colour", "lu"));
        assert!(!holds(&tree(None, &shown), "/etc/paint/colour", ""));
    }
}
